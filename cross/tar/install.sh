#!/bin/sh
# Installs Skerry from this directory, on any Linux.
#
#   ./install.sh agent       this machine is a device
#   ./install.sh hub         this machine is the hub, or an operator's
#
# Programs go to /usr/local/bin, settings to /etc/skerry (kept if there). With
# systemd the service is enabled and started; run it again to upgrade:
# containers run on. With DESTDIR set, files are laid out there and no more.
set -eu
# Whatever whoever installs has: the hub's own user reads its settings.
umask 022
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}

case ${1:-} in
    agent) program=skerry-agent service=skerry-agent settings=agent.yaml ;;
    hub) program=skerry service=skerry-hub settings=hub.yaml ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "install.sh: needs root: sudo ./install.sh $1" >&2
    exit 1
fi
if [ -z "$root" ] && ! "$here/bin/$program" --version >/dev/null; then
    echo "install.sh: $program does not run here: this archive is for @MACHINE@, this machine is $(uname -m)" >&2
    exit 1
fi
# Two of them would start in each other's place.
if [ -z "$root" ] && [ "$(dpkg-query -W -f '${db:Status-Status}' "$service" 2>/dev/null)" = installed ]; then
    echo "install.sh: the package $service is installed; upgrade it with a newer one, or first: apt remove $service" >&2
    exit 1
fi

mkdir -p "$root/usr/local/bin" "$root/etc/skerry"
# Beside it and renamed: a program that runs cannot be written to.
cp "$here/bin/$program" "$root/usr/local/bin/.$program.new"
chmod 755 "$root/usr/local/bin/.$program.new"
mv "$root/usr/local/bin/.$program.new" "$root/usr/local/bin/$program"
if [ ! -e "$root/etc/skerry/$settings" ]; then
    (umask 077 && cp "$here/etc/$settings" "$root/etc/skerry/$settings")
    chmod 600 "$root/etc/skerry/$settings"
fi
if [ "$1" = agent ]; then
    mkdir -p "$root/etc/apparmor.d"
    if [ ! -e "$root/etc/apparmor.d/skerry-default" ]; then
        cp "$here/etc/skerry-default" "$root/etc/apparmor.d/skerry-default"
        chmod 644 "$root/etc/apparmor.d/skerry-default"
    fi
    # Before the agent starts a container. Without AppArmor, or its parser, apps
    # run all the same; 'skerry-agent doctor' says so.
    if [ -z "$root" ] && [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] &&
        command -v apparmor_parser >/dev/null; then
        apparmor_parser -r -W /etc/apparmor.d/skerry-default ||
            echo "install.sh: the AppArmor profile cannot be loaded; apps run without it" >&2
    fi
fi
mkdir -p "$root/usr/local/share/doc/$service"
cp "$here/doc/"* "$here/$service.sbom.cdx.json" "$root/usr/local/share/doc/$service/"

if [ "$1" = hub ] && [ -z "$root" ]; then
    if ! grep -q '^skerry:' /etc/passwd; then
        if command -v useradd >/dev/null; then
            group=--user-group
            if grep -q '^skerry:' /etc/group; then group=--gid=skerry; fi
            useradd --system "$group" --home-dir /var/lib/skerry --no-create-home \
                --shell /usr/sbin/nologin --comment "Skerry hub" skerry
        else
            # busybox's
            grep -q '^skerry:' /etc/group || addgroup -S skerry
            adduser -S -D -H -h /var/lib/skerry -s /sbin/nologin -G skerry -g "Skerry hub" skerry
        fi
    fi
    chgrp skerry /etc/skerry/hub.yaml
    chmod 640 /etc/skerry/hub.yaml
fi

if [ -n "$root" ] || [ -d /run/systemd/system ]; then
    mkdir -p "$root/etc/systemd/system"
    for unit in "$here/systemd/$service.service" "$here/systemd/skerry.slice"; do
        if [ "$1" = hub ] && [ "${unit##*/}" = skerry.slice ]; then continue; fi
        sed -e 's,/usr/bin/,/usr/local/bin/,' -e 's,/usr/share/doc/,/usr/local/share/doc/,' "$unit" \
            >"$root/etc/systemd/system/${unit##*/}"
    done
fi
if [ -n "$root" ]; then exit 0; fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet "$service"
    systemctl restart "$service"
    echo "$service runs; its log: journalctl -u $service"
else
    # OpenRC, sysv, busybox and their like: a line is all it needs.
    case $1 in
        agent) line='/usr/local/bin/skerry-agent run' ;;
        hub)
            line='/usr/local/bin/skerry hub --config /etc/skerry/hub.yaml'
            # With systemd, its unit does this.
            mkdir -p /var/lib/skerry
            chown skerry:skerry /var/lib/skerry
            chmod 700 /var/lib/skerry
            ;;
    esac
    echo "No systemd here. Let your init run this at boot, and again whenever it ends:"
    echo "    $line"
    openrc="supervisor=supervise-daemon command=${line%% *} command_args='${line#* }' respawn_max=0"
    if [ "$1" = hub ]; then
        echo "as the user skerry."
        echo "OpenRC: $openrc command_user=skerry:skerry"
    else
        echo "Stop the agent with a signal to it alone, never to its process group or cgroup: containers outlive it."
        echo "OpenRC: $openrc"
        echo "inittab: sk:2345:respawn:$line"
    fi
    echo "If one runs already: end it, and the new one is started in its place; containers run on."
fi
if [ "$1" = agent ]; then
    echo "To join a fleet: skerry-agent join TOKEN (from 'skerry token create' on the hub)"
fi
