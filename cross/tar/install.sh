#!/bin/sh
# Installs Skerry from this directory, on any Linux.
#
#   ./install.sh agent       this machine is a device
#   ./install.sh hub         this machine is the hub, or an operator's
#
# Programs go to /usr/local/bin, settings to /etc/skerry (kept if there). With
# systemd or OpenRC the service is enabled and started; run it again to upgrade:
# containers run on. With PREFIX=/opt programs go to /opt/bin. With DESTDIR set,
# files are laid out there and no more.
set -eu
# Whatever whoever installs has: the hub's own user reads its settings.
umask 022
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
bin=$prefix/bin

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
    echo "install.sh: $program does not run here: this archive is for @MACHINE@, this machine is $(uname -m); if they agree: is $here on a file system that is mounted noexec?" >&2
    exit 1
fi
# Two of them would start in each other's place.
if [ -z "$root" ] && [ "$(dpkg-query -W -f '${db:Status-Status}' "$service" 2>/dev/null)" = installed ]; then
    echo "install.sh: the package $service is installed; upgrade it with a newer one, or first: apt remove $service" >&2
    exit 1
fi

case $prefix in
    /*) ;;
    *) echo "install.sh: PREFIX=$prefix: it is a whole path, as /opt is" >&2; exit 2 ;;
esac
if ! mkdir -p "$root$bin"; then
    echo "install.sh: $bin cannot be made; where that is read-only: PREFIX=/opt ./install.sh $1" >&2
    exit 1
fi
# Beside it and renamed: a program that runs cannot be written to.
if ! cp "$here/bin/$program" "$root$bin/.$program.new"; then
    rm -f "$root$bin/.$program.new"
    echo "install.sh: $bin cannot be written to; where it is read-only: PREFIX=/opt ./install.sh $1" >&2
    exit 1
fi
chmod 755 "$root$bin/.$program.new"
mv "$root$bin/.$program.new" "$root$bin/$program"
mkdir -p "$root/etc/skerry"
fresh=
if [ ! -e "$root/etc/skerry/$settings" ]; then
    fresh=yes
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
mkdir -p "$root$prefix/share/doc/$service"
cp "$here/doc/"* "$here/$service.sbom.cdx.json" "$root$prefix/share/doc/$service/"

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

name_it="Set 'advertise' in /etc/skerry/hub.yaml to the name that devices reach this machine by"
# What starts services on this machine.
if [ -d /run/systemd/system ]; then init=systemd
elif [ -d /run/openrc ]; then init=openrc
else init=another
fi
# unit FROM TO: as it is for where the programs are.
unit() { sed -e "s,/usr/bin/,$bin/," -e "s,/usr/share/doc/,$prefix/share/doc/," "$1" >"$2"; }
if [ -n "$root" ] || [ $init = systemd ]; then
    mkdir -p "$root/etc/systemd/system"
    for file in "$here/systemd/$service.service" "$here/systemd/skerry.slice"; do
        if [ "$1" = hub ] && [ "${file##*/}" = skerry.slice ]; then continue; fi
        unit "$file" "$root/etc/systemd/system/${file##*/}"
    done
fi
if [ -n "$root" ] || [ $init = openrc ]; then
    mkdir -p "$root/etc/init.d"
    unit "$here/openrc/$service" "$root/etc/init.d/$service"
    chmod 755 "$root/etc/init.d/$service"
fi
if [ -n "$root" ]; then exit 0; fi
if [ $init = systemd ]; then
    systemctl daemon-reload
    systemctl enable --quiet "$service"
    systemctl restart "$service"
    echo "$service runs; its log: journalctl -u $service"
elif [ $init = openrc ]; then
    rc-update --quiet add "$service" default
    rc-service "$service" restart
    echo "$service runs; its log: /var/log/$service.log"
else
    # sysv, busybox, runit and their like: a line is all it needs.
    case $1 in
        agent) line="$bin/skerry-agent run" ;;
        hub)
            line="$bin/skerry hub --config /etc/skerry/hub.yaml"
            # Elsewhere its service does this.
            mkdir -p /var/lib/skerry
            chown skerry:skerry /var/lib/skerry
            chmod 700 /var/lib/skerry
            ;;
    esac
    echo "Neither systemd nor OpenRC here. Let your init run this at boot, and again whenever it ends:"
    echo "    $line"
    if [ "$1" = hub ]; then
        echo "as the user skerry."
    else
        echo "In /etc/inittab of busybox:  ::respawn:$line"
        echo "In /etc/inittab of sysv:     sk:2345:respawn:$line"
        echo "Stop the agent with a signal to it alone, never to all processes of that name, its process group or"
        echo "its cgroup: containers outlive it, and so does their keeper."
    fi
    # Brackets: not the shell or sudo that has this line as its argument.
    echo "If one runs already, the new one takes its place after:  pkill -f '${program%?}[${program#"${program%?}"}] ${line#* }'"
fi
case $1-$fresh-$init in
    agent-*) echo "To join a fleet: skerry-agent join TOKEN (from 'skerry token create' on the hub)" ;;
    hub-yes-systemd) echo "$name_it, then: systemctl restart skerry-hub" ;;
    hub-yes-openrc) echo "$name_it, then: rc-service skerry-hub restart" ;;
    hub-yes-another) echo "$name_it." ;;
esac
