#!/bin/sh
# Removes what install.sh brought.
#
#   ./uninstall.sh agent|hub [--purge]
#
# Settings and data stay, unless --purge is said: then keys, images and volumes
# go too. Removing the agent ends every app on this machine. What was installed
# with PREFIX or DESTDIR is removed with the same.
set -eu
case ${1:-} in
    agent) program=skerry-agent service=skerry-agent settings=agent.yaml data=/var/lib/skerry-agent ;;
    hub) program=skerry service=skerry-hub settings=hub.yaml data=/var/lib/skerry ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
case ${2:-} in
    '' | --purge) ;;
    *) echo "uninstall.sh: $2: it is --purge or nothing" >&2; exit 2 ;;
esac
root=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
if [ -z "$root" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "uninstall.sh: needs root: sudo ./uninstall.sh $*" >&2
        exit 1
    fi
    if [ -d /run/systemd/system ]; then
        systemctl disable --quiet --now "$service" || true
        # systemd ends no slice by itself.
        if [ "$1" = agent ]; then systemctl stop skerry.slice || true; fi
    elif [ -e "/etc/init.d/$service" ] && [ -d /run/openrc ]; then
        rc-service "$service" stop || true
        rc-update --quiet del "$service" default || true
    fi
    if [ "$1" = agent ] && [ -x "$prefix/bin/skerry-agent" ] && [ -e /var/lib/skerry-agent ]; then
        # It says what to do when an agent still runs, without systemd.
        "$prefix/bin/skerry-agent" stop
    fi
    if [ "$1" = agent ] && grep -qs '^skerry-default (' /sys/kernel/security/apparmor/profiles &&
        command -v apparmor_parser >/dev/null; then
        apparmor_parser -R /etc/apparmor.d/skerry-default || true
    fi
fi
rm -rf "$root${prefix:?}/bin/$program" "$root$prefix/share/doc/$service" \
    "$root/etc/systemd/system/$service.service" "$root/etc/init.d/$service"
if [ "$1" = agent ]; then rm -rf "$root/etc/systemd/system/skerry.slice" "$root/run/skerry-agent"; fi
if [ "${2:-}" = --purge ]; then
    # What somebody mounted below it is not looked into, also where 'rm' cannot
    # be told so.
    if grep -qs " $root$data/" /proc/mounts || ! rm -rf "$root$data"; then
        echo "uninstall.sh: $data is not wholly gone, something is mounted there; after its umount: rm -r $data" >&2
    fi
    rm -f "$root/etc/skerry/$settings" "$root/var/log/$service.log" "$root/var/log/$service.log.1"
    if [ "$1" = agent ]; then rm -f "$root/etc/apparmor.d/skerry-default"; fi
    rmdir "$root/etc/skerry" 2>/dev/null || true
    # An account of this name with another home is not the one that we made.
    if [ "$1" = hub ] && [ -z "$root" ] && grep -q '^skerry:.*:/var/lib/skerry:' /etc/passwd; then
        if command -v userdel >/dev/null; then userdel skerry; else deluser skerry; fi ||
            echo "uninstall.sh: the user 'skerry' stays, something still runs as it" >&2
    fi
fi
if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
