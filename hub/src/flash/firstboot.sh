#!/bin/sh
# The first boot of a card that 'skerry flash' wrote: puts agent and settings
# from this directory into the system, then removes the directory.
#
#   firstboot.sh boot      started by systemd.run= in cmdline.txt (Raspberry Pi
#                          images); systemd restarts the machine afterwards
#   firstboot.sh service   started by skerry-firstboot.service; the system goes on
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
        sed "s/@SERIAL@/$(serial)/" "$here/agent.yaml" | write /etc/skerry/agent.yaml 600 &&
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
    name=$(echo "$HOST" | sed "s/@SERIAL@/$(serial)/")
    old=$(cat /etc/hostname 2>/dev/null)
    echo "$name" | write /etc/hostname 644 || return 1
    hostname "$name" 2>/dev/null || echo "$name" >/proc/sys/kernel/hostname
    # 'sudo' and others want to find it.
    if grep -q '^127\.0\.1\.1' /etc/hosts 2>/dev/null; then
        sed "s/^127\.0\.1\.1.*/127.0.1.1\t$name/" /etc/hosts | write /etc/hosts 644
    else
        { cat /etc/hosts 2>/dev/null; printf '127.0.1.1\t%s\n' "$name"; } | write /etc/hosts 644
    fi || return 1
    # cloud-init would give the old one back.
    if [ -d /etc/cloud/cloud.cfg.d ]; then
        echo 'preserve_hostname: true' | write /etc/cloud/cloud.cfg.d/99-skerry.cfg 644
    fi
    echo "${old:-none} is now $name"
}

time_zone() {
    if [ ! -e "/usr/share/zoneinfo/$TIME_ZONE" ]; then
        echo "this system does not know the time zone $TIME_ZONE"
        return 1
    fi
    ln -sf "/usr/share/zoneinfo/$TIME_ZONE" /etc/localtime && echo "$TIME_ZONE" | write /etc/timezone 644
}

wifi() {
    # Raspberry Pi OS keeps the radio off until somebody chose a country.
    for file in /var/lib/systemd/rfkill/*:wlan; do
        [ ! -e "$file" ] || echo 0 >"$file"
    done
    rfkill unblock wifi 2>/dev/null
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
    if ! id "$LOGIN" >/dev/null 2>&1; then
        if [ -x /usr/lib/userconf-pi/userconf ] && [ "$LOGIN_HASH" != '*' ]; then
            # Raspberry Pi OS: gives its first user this name and ends its
            # question for one.
            /usr/lib/userconf-pi/userconf "$LOGIN" "$LOGIN_HASH" && return 0
        fi
        useradd --create-home --shell /bin/bash "$LOGIN" || return 1
    fi
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
    cat "$home/.ssh/authorized_keys" "$here/authorized_keys" 2>/dev/null | sort -u |
        write "$home/.ssh/authorized_keys" 600 && chown -R "$who:" "$home/.ssh"
}

ssh_on() {
    ssh-keygen -A >/dev/null 2>&1
    if systemctl -q is-enabled ssh.socket 2>/dev/null || systemctl -q is-enabled ssh.service 2>/dev/null; then
        return 0
    fi
    systemctl enable ssh.service || systemctl enable sshd.service || return 1
    if [ "$how" = service ]; then systemctl --no-block start ssh.service; fi
}

# Debian writes cmdline.txt anew with each kernel and takes more from here.
keep_cmdline() {
    extra=/etc/default/raspi-extra-cmdline
    if [ -e /etc/default/raspi-firmware ] && ! grep -qs cgroup_enable=memory "$extra"; then
        echo "$(cat "$extra" 2>/dev/null) cgroup_enable=memory" | write "$extra" 644
    fi
}

cmdline_without_us() {
    file=$(cat "$here/cmdline-file") || return 1
    file=$here/../$file
    sed -E 's/ systemd\.run(_success_action|_failure_action)?=[^ ]*//g; s/ systemd\.unit=kernel-command-line\.target//g' \
        "$file" >"$file.new" && [ -s "$file.new" ] && sync "$file.new" && mv "$file.new" "$file" && sync "$file"
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
try 'install the agent' agent
if [ "$failed" != 0 ] && [ "$tries" -lt 3 ] && [ "$how" = boot ]; then
    say "attempt $tries of 3 failed; again"
    exit 0
fi
try 'install the AppArmor profile' app_armor
[ -z "$HOST" ] || try 'set the host name' host_name
[ -z "$TIME_ZONE" ] || try 'set the time zone' time_zone
[ ! -e "$here/wifi.wpa.conf" ] || try 'set up Wi-Fi' wifi
[ -z "$LOGIN" ] || try "let $LOGIN log in" login
[ ! -e "$here/authorized_keys" ] || try 'install the ssh keys' keys
[ -z "$SSH" ] || try 'switch ssh on' ssh_on
try 'keep the memory cgroup' keep_cmdline
done_with
say "first boot done, $failed failures"
if [ "$how" = service ]; then
    systemctl daemon-reload
    systemctl --no-block start skerry-agent.service
fi
exit 0
