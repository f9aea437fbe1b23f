#!/bin/sh
# The first boot of a card that 'skerry flash' wrote: puts agent and settings
# from this directory into the system, then removes the directory.
#
#   setup.sh boot      started by systemd.run= in cmdline.txt (Raspberry Pi
#                      images); systemd restarts the machine afterwards
#   setup.sh service   started by skerry-firstboot.service; the system goes on
#
# It is not called firstboot.sh: Raspberry Pi OS 12 grows its root partition at
# every start whose command line has that word anywhere.
#
# Safe to run again from the start: a power cut at any moment does no harm.
# Nothing here ends the script early: a system that lacks one thing should
# still join. What failed is in /var/log/skerry-firstboot.log.
set -u
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
how=${1:-boot}
here=$(cd "$(dirname "$0")" && pwd)
log=/var/log/skerry-firstboot.log
failed=0
HOST='' TIME_ZONE='' LOGIN='' LOGIN_HASH='*' SSH=''
userconf=/usr/lib/userconf-pi/userconf

say() { echo "skerry: $*"; echo "skerry: $*" >>"$log"; }
try() {
    what=$1
    shift
    if output=$("$@" 2>&1); then
        say "$what: done"
    else
        failed=$((failed + 1))
        say "$what: FAILED: $output"
    fi
}

# A file of the directory, whole or not at all: copied beside its place,
# synced, renamed.
put() { # NAME PATH MODE
    mkdir -p "$(dirname "$2")" &&
        cp "$here/$1" "$2.skerry-new" &&
        chmod "$3" "$2.skerry-new" &&
        sync "$2.skerry-new" &&
        mv "$2.skerry-new" "$2"
}
# The same for text from stdin.
write() { # PATH MODE
    mkdir -p "$(dirname "$1")" && (umask 077 && cat >"$1.skerry-new") &&
        chmod "$2" "$1.skerry-new" && sync "$1.skerry-new" && mv "$1.skerry-new" "$1"
}

# What tells boards apart: the serial number (last eight digits, as a label on
# a Raspberry Pi has them), else a network card's address.
serial() {
    for file in /proc/device-tree/serial-number /sys/class/dmi/id/board_serial \
        /sys/class/net/e*/address /sys/class/net/w*/address; do
        [ -r "$file" ] || continue
        text=$(tr -d '\0: \n' <"$file" | tr 'A-Z' 'a-z')
        case $text in
            '' | *[!0-9a-f]*) continue ;;
        esac
        case $text in
            *[!0]*) printf '%s' "$text" | tail -c 8; return ;;
        esac
    done
    # Nothing tells it apart: the system's own random number.
    head -c 8 /etc/machine-id
}

agent() {
    put skerry-agent /usr/bin/skerry-agent 755 &&
        put skerry.slice /usr/lib/systemd/system/skerry.slice 644 &&
        put skerry-agent.service /usr/lib/systemd/system/skerry-agent.service 644 &&
        sed "s/@SERIAL@/$SERIAL/" "$here/agent.yaml" | write /etc/skerry/agent.yaml 600 &&
        systemctl enable skerry-agent.service
}

# What confines apps, where the kernel has AppArmor. systemd gives it to the
# kernel at each start from there, before the agent begins.
app_armor() {
    profile=/etc/apparmor.d/skerry-default
    put apparmor-profile $profile 644 || return 1
    if [ "$how" = service ] && command -v apparmor_parser >/dev/null &&
        [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ]; then
        apparmor_parser -r -W $profile
    fi
}

host_name() {
    name=$(echo "$HOST" | sed "s/@SERIAL@/$SERIAL/")
    old=$(cat /etc/hostname 2>/dev/null)
    echo "$name" | write /etc/hostname 644 || return 1
    hostname "$name" 2>/dev/null || echo "$name" >/proc/sys/kernel/hostname
    # 'sudo' and others want to find it.
    if grep -q '^127\.0\.1\.1' /etc/hosts 2>/dev/null; then
        sed "s/^127\.0\.1\.1.*/127.0.1.1\t$name/" /etc/hosts | write /etc/hosts 644
    else
        { cat /etc/hosts 2>/dev/null; printf '127.0.1.1\t%s\n' "$name"; } | write /etc/hosts 644
    fi || return 1
    echo "${old:-none} is now $name"
}

time_zone() {
    if [ ! -e "/usr/share/zoneinfo/$TIME_ZONE" ]; then
        echo "this system does not know the time zone $TIME_ZONE"
        return 1
    fi
    ln -sf "/usr/share/zoneinfo/$TIME_ZONE" /etc/localtime && echo "$TIME_ZONE" | write /etc/timezone 644
}

# cloud-init comes after this script and takes the machine for a new one. It
# would give the old host name back, and on Raspberry Pi OS make the first user,
# who has another name now, once more and ask for one at the screen again. Of
# the files there the last by name counts; user-data counts more.
cloud_init() {
    {
        [ -z "$HOST" ] || echo 'preserve_hostname: true'
        [ -z "$LOGIN" ] || [ ! -x "$userconf" ] || echo 'users: []'
    } | write /etc/cloud/cloud.cfg.d/zz-skerry.cfg 644
}

# Raspberry Pi OS keeps its radio off until somebody chose a country, twice:
radio_on() {
    # The kernel starts it switched off, and systemd-rfkill switches it as these
    # files say. It may not be there yet, so those on the boards themselves
    # (Zero W, 2 and 3, 4, 5) are named.
    states=/var/lib/systemd/rfkill
    if [ -d "$states" ]; then
        for radio in 20300000.mmcnr 3f300000.mmcnr fe300000.mmcnr 1001100000.mmc; do
            echo 0 >"$states/platform-$radio:wlan"
        done
    fi
    for file in "$states"/*:wlan; do
        [ ! -e "$file" ] || echo 0 >"$file"
    done
    rfkill unblock wifi 2>/dev/null
    # NetworkManager has a switch of its own.
    state=/var/lib/NetworkManager/NetworkManager.state
    if grep -qs '^WirelessEnabled=false' "$state"; then
        sed 's/^WirelessEnabled=.*/WirelessEnabled=true/' "$state" | write "$state" 644
    fi
}

wifi() {
    radio_on || return 1
    if [ -x /usr/sbin/NetworkManager ]; then
        put wifi.nmconnection /etc/NetworkManager/system-connections/skerry-wifi.nmconnection 600
    elif [ -d /etc/netplan ]; then
        put wifi.netplan.yaml /etc/netplan/90-skerry-wifi.yaml 600
        # At the first boot of a service the network is not up yet either.
        if [ "$how" = service ]; then netplan generate; fi
    elif [ -x /sbin/wpa_supplicant ] && [ -d /etc/network ]; then
        put wifi.wpa.conf /etc/wpa_supplicant/skerry-wifi.conf 600 &&
            printf '%s\n' 'allow-hotplug wlan0' 'iface wlan0 inet dhcp' \
                '    wpa-conf /etc/wpa_supplicant/skerry-wifi.conf' |
            write /etc/network/interfaces.d/wlan0 600
    else
        echo "this system has neither NetworkManager nor netplan nor wpa_supplicant"
        return 1
    fi
}

login() {
    if [ -x "$userconf" ] && systemctl -q is-enabled userconfig.service 2>/dev/null; then
        # Raspberry Pi OS that nobody has used yet: gives its first user this
        # name, unless it is root's or a service's, and ends its question for
        # one at the screen. No password is the empty one there.
        case $(id -u "$LOGIN" 2>/dev/null) in
            '' | 1000) "$userconf" "$LOGIN" "${LOGIN_HASH#\*}" ;;
        esac
    fi
    if ! id "$LOGIN" >/dev/null 2>&1; then
        useradd --create-home --shell /bin/bash "$LOGIN" || return 1
    fi
    # A first user whom nobody named yet may have no shell.
    case $(getent passwd "$LOGIN" | cut -d: -f7) in
        */nologin | */false) usermod --shell /bin/bash "$LOGIN" ;;
    esac
    echo "$LOGIN:$LOGIN_HASH" | chpasswd -e || return 1
    for group in adm sudo video plugdev netdev gpio i2c spi; do
        if getent group "$group" >/dev/null; then usermod -aG "$group" "$LOGIN"; fi
    done
    # Without a password there is none to ask for.
    if [ "$LOGIN_HASH" = '*' ] && [ -d /etc/sudoers.d ] && [ "$LOGIN" != root ]; then
        echo "$LOGIN ALL=(ALL) NOPASSWD: ALL" | write /etc/sudoers.d/90-skerry-user 440
    fi
}

keys() {
    who=${LOGIN:-root}
    home=$(getent passwd "$who" | cut -d: -f6)
    [ -n "$home" ] || { echo "there is no user $who"; return 1; }
    mkdir -p "$home/.ssh" && chmod 700 "$home/.ssh" || return 1
    # Their last line may have no end.
    { cat "$home/.ssh/authorized_keys" 2>/dev/null; echo; cat "$here/authorized_keys"; } |
        grep . | sort -u | write "$home/.ssh/authorized_keys" 600 && chown -R "$who:" "$home/.ssh"
}

# Many systems make them only at what they take for their first boot, which is
# over after this one.
host_keys() {
    for key in /etc/ssh/ssh_host_*_key; do
        [ ! -e "$key" ] || return 0
    done
    ssh-keygen -A
}

ssh_on() {
    # Nobody gets in with a password where sshd takes keys only, as it does in
    # many images with cloud-init. For this user alone: others may have a
    # password that everybody knows.
    if [ "$LOGIN_HASH" != '*' ] && [ ! -e "$here/authorized_keys" ] && [ -d /etc/ssh/sshd_config.d ]; then
        printf 'Match User %s\n    PasswordAuthentication yes\n' "$LOGIN" |
            write /etc/ssh/sshd_config.d/10-skerry.conf 600
    fi
    for unit in ssh.socket ssh.service dropbear.service; do
        if systemctl -q is-enabled "$unit" 2>/dev/null; then return 0; fi
    done
    systemctl enable ssh.service || systemctl enable sshd.service || return 1
    if [ "$how" = service ]; then systemctl --no-block start ssh.service; fi
}

# Debian writes cmdline.txt anew with each kernel and at its own first start,
# and takes more from here.
keep_cmdline() {
    [ -e /etc/default/raspi-firmware ] && [ -e "$here/cmdline-file" ] || return 0
    extra=/etc/default/raspi-extra-cmdline
    words=$(cat "$extra" 2>/dev/null)
    for word in $(head -n 1 "$here/../$(tail -n 1 "$here/cmdline-file")"); do
        case $word in
            cgroup_enable=memory | cfg80211.ieee80211_regdom=*) ;;
            *) continue ;;
        esac
        case " $words " in
            *" $word "*) ;;
            *) words="$words $word" ;;
        esac
    done
    echo "$words" | write "$extra" 644
}

# There are two where the board tries a new kernel beside the old one; the one
# that it starts with now is the last, so that a power cut leaves it.
cmdline_without_us() {
    while read -r name; do
        file=$here/../$name
        [ -e "$file" ] || continue
        sed -E 's/ systemd\.run(_success_action|_failure_action)?=[^ ]*//g; s/ systemd\.unit=kernel-command-line\.target//g' \
            "$file" >"$file.new" && [ -s "$file.new" ] && sync "$file.new" && mv "$file.new" "$file" && sync "$file" || return 1
    done <"$here/cmdline-file"
}

done_with() {
    # Secrets go first, then what starts this, then the rest. Whatever a power
    # cut leaves, the next boot finds 'done' and goes on from here.
    echo done >"$here/done"
    sync "$here/done"
    rm -f "$here/agent.yaml" "$here"/wifi.*
    if [ "$how" = boot ]; then
        try 'start as usual from now on' cmdline_without_us
    else
        rm -f /etc/systemd/system/multi-user.target.wants/skerry-firstboot.service \
            /etc/systemd/system/skerry-firstboot.service
    fi
    sync
    [ "$failed" = 0 ] || [ "$how" != boot ] || cp "$log" "$here/../skerry-firstboot.log"
    rm -rf "$here"
    sync
}

say "first boot ($how)"
if [ -e "$here/done" ]; then
    done_with
    exit 0
fi
. "$here/settings.sh"
# A machine that cannot be set up should not restart for ever.
echo x >>"$here/tries"
sync "$here/tries" 2>/dev/null
tries=$(wc -l <"$here/tries")
# Network cards may be on their way still; asked once, so that all names agree.
udevadm settle --timeout=30 2>/dev/null
SERIAL=$(serial)
try 'install the agent' agent
if [ "$failed" != 0 ] && [ "$tries" -lt 3 ] && [ "$how" = boot ]; then
    say "attempt $tries of 3 failed; again"
    exit 0
fi
try 'install the AppArmor profile' app_armor
[ -z "$HOST" ] || try 'set the host name' host_name
if [ -d /etc/cloud/cloud.cfg.d ] && [ -n "$HOST$LOGIN" ]; then
    try 'tell cloud-init' cloud_init
fi
[ -z "$TIME_ZONE" ] || try 'set the time zone' time_zone
[ ! -e "$here/wifi.wpa.conf" ] || try 'set up Wi-Fi' wifi
[ -z "$LOGIN" ] || try "let $LOGIN log in" login
[ ! -e "$here/authorized_keys" ] || try 'install the ssh keys' keys
if command -v ssh-keygen >/dev/null; then try "make ssh's own keys" host_keys; fi
[ -z "$SSH" ] || try 'switch ssh on' ssh_on
try 'keep words of the command line' keep_cmdline
done_with
say "first boot done, $failed failures"
if [ "$how" = service ]; then
    systemctl daemon-reload
    systemctl --no-block start skerry-agent.service
    if [ -e /etc/netplan/90-skerry-wifi.yaml ]; then
        # Made by netplan a moment ago, when it was settled already what starts.
        systemctl --no-block start netplan-wpa-wlan0.service
    fi
fi
exit 0
