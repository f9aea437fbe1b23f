# shellcheck shell=bash
# What the scripts beside this share: a Debian system for arm64 with systemd,
# laid out as a card like Raspberry Pi OS's, an emulated board that boots it, a
# hub for it and an app. Sourced, in the directory of the work, with these set:
#
#   root    a Debian root made before, or empty
#   model   virt or raspi3b
#   layout  pi or cloud
#   skerry  the skerry program for this machine
#   work    the directory of the work
#
# Needs root and, from Debian: debootstrap qemu-user-static qemu-system-arm
# mtools dosfstools e2fsprogs fdisk kmod cpio xz-utils openssh-client python3.
# QEMU has no Raspberry Pi firmware: this plays it, and reads kernel, initramfs,
# device tree and command line from the card anew at each start.
export MTOOLS_SKIP_CHECK=1 LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
suite=trixie pids=() board=
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; }
trap cleanup EXIT

# --- A Debian root. debootstrap fetches and checks the packages; this machine's
# --- own dpkg unpacks them, for emulated that takes half an hour of a busy
# --- machine, and debootstrap's second stage hangs under some versions of QEMU's
# --- user mode. What is left to be emulated is the packages' scripts.
make_root() {
    [ -z "$root" ] || return 0
    root=$work/root
    [ ! -e "$root/.made" ] || return 0
    # Where nobody told the kernel yet what runs arm64 programs.
    grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64* ||
        cat /usr/lib/binfmt.d/qemu-aarch64*.conf >/proc/sys/fs/binfmt_misc/register ||
        die "this machine does not run arm64 programs: apt-get install qemu-user-static binfmt-support"
    rm -rf "$root"
    debootstrap --arch=arm64 --foreign --variant=minbase \
        --include=systemd,systemd-sysv,udev,dbus,kmod,iproute2,ca-certificates,openssh-server,nftables,e2fsprogs,systemd-resolved,systemd-timesyncd,tzdata,apparmor,linux-image-arm64 \
        "$suite" "$root" >debootstrap.log
    # Inside a container debootstrap makes a link of it, to itself once it is a root.
    rm -rf "$root/proc" && mkdir "$root/proc"
    # Before the first package is configured somebody must be there to own files.
    for file in passwd group; do cp "$root/usr/share/base-passwd/$file.master" "$root/etc/$file"; done
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" && chmod +x "$root/usr/sbin/policy-rc.d"
    # The board gets another initramfs; Debian's takes an hour to be made like this.
    export INITRD=No DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
    {
        dpkg --root="$root" --force-architecture --force-depends --unpack "$root"/var/cache/apt/archives/*.deb </dev/null &&
            unshare -m sh -c "mount -t proc proc '$root/proc' && chroot '$root' dpkg --configure -a </dev/null"
    } >configure.log 2>&1 || { tail -5 configure.log >&2; die "the root cannot be made ($work/configure.log)"; }
    rm -rf "$root"/{debootstrap,usr/sbin/policy-rc.d} "$root"/var/cache/apt/archives/*.deb
    # Debian's own profiles, of programs that are not here, would be compiled for
    # minutes at the first start of an emulated board.
    find "$root/etc/apparmor.d" -maxdepth 1 -type f -delete
    touch "$root/.made"
}

# --- A card as Raspberry Pi OS has it: FAT with kernel and command line, ext4;
# --- or one as Debian's cloud image: ext4 and an EFI partition.
# --- A function adjust_tree may change ./tree before.
make_card() {
    local kernel release file tree_file unit module
    kernel=$(find "$root/boot" -name "vmlinuz-*" -type f | sort | tail -1)
    release=$(basename "$(ls -d "$root"/usr/lib/modules/*/ | tail -1)")
    [ -s "$kernel" ] || die "there is no kernel in $root/boot"
    rm -rf tree early && cp -a "$root" tree
    # A busy machine's board finds its card late, and a minute and a half is then
    # too short.
    case $layout in
        pi) printf 'PARTUUID=5eed0001-%s\n' '01 /boot/firmware vfat defaults,x-systemd.device-timeout=10min 0 2' '02 / ext4 defaults,noatime 0 1' ;;
        cloud) printf '%s\n' '/dev/vda1 / ext4 rw,discard,errors=remount-ro 0 1' '/dev/vda15 /boot/efi vfat defaults,x-systemd.device-timeout=10min 0 0' ;;
    esac >tree/etc/fstab
    mkdir -p tree/boot/{firmware,efi} tree/etc/systemd/{network,system/multi-user.target.wants}
    echo raspberrypi >tree/etc/hostname
    printf '127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n' >tree/etc/hosts
    : >tree/etc/machine-id
    rm -f tree/etc/ssh/ssh_host_* tree/etc/resolv.conf
    printf '[Match]\nName=en* eth* usb*\n[Network]\nDHCP=yes\n' >tree/etc/systemd/network/20-wired.network
    for unit in systemd-networkd systemd-resolved; do
        ln -sf "/usr/lib/systemd/system/$unit.service" "tree/etc/systemd/system/multi-user.target.wants/$unit.service"
    done
    ln -s ../run/systemd/resolve/stub-resolv.conf tree/etc/resolv.conf
    printf '%s\n' virtio_net vfat nls_cp437 nls_ascii overlay bridge veth usbnet cdc_ether dwc2 >tree/etc/modules-load.d/board.conf
    if [ "$model" = raspi3b ]; then
        # QEMU's resets the moment that its watchdog is started, which systemd
        # does before it restarts a machine: with disks still mounted.
        mkdir -p tree/etc/systemd/system.conf.d
        printf '[Manager]\nRebootWatchdogSec=off\n' >tree/etc/systemd/system.conf.d/board.conf
    fi
    if declare -F adjust_tree >/dev/null; then adjust_tree; fi
    depmod -b tree "$release"
    # An initramfs that only finds the root: Debian's own takes too long here.
    mkdir -p early/{bin,dev,proc,sys,root,lib/modules}
    for module in virtio_pci virtio_blk virtio_mmio ext4 bcm2835 sdhci_iproc mmc_block dwc2 phy_generic; do
        modprobe -d "$PWD/tree" -S "$release" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
        case $file in *.xz) xz -dc "$file" >"early/lib/modules/$(basename "$file" .xz)" ;; *) cp "$file" early/lib/modules/ ;; esac
        basename "$file" .xz >>early/lib/order
    done
    # Its programs and their libraries come from the root itself.
    for file in bin/sh bin/mount bin/sleep sbin/switch_root bin/kmod; do
        install -D "$(realpath "tree/$file")" "early/$file"
    done
    cp -aL --parents tree/lib/ld-linux-aarch64.so.1 tree/usr/lib/aarch64-linux-gnu/{libc.so.6,libmount.so.1,libblkid.so.1,libselinux.so.1,libpcre2-8.so.0,libzstd.so.1,liblzma.so.5,libcrypto.so.3,libz.so.1} early/
    cp -a early/tree/. early/ && rm -rf early/tree
    ln -s kmod early/bin/insmod
    cat >early/init <<'F'
#!/bin/sh
export LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/modules/$module"; done </lib/order
n=0
while [ $n -lt 60 ]; do
    for disk in /dev/vda2 /dev/mmcblk0p2 /dev/mmcblk1p2 /dev/vda1; do
        [ -b $disk ] && mount -t ext4 -o rw $disk /root && break 2
    done
    sleep 1; n=$((n + 1))
done
unset LD_LIBRARY_PATH
mount --move /dev /root/dev
exec switch_root /root /sbin/init
F
    chmod +x early/init
    (cd early && find . | cpio --quiet -o -H newc) | gzip -1 >initrd.img
    rm -f boot.fat root.ext4 stock.img
    truncate -s 200M boot.fat
    truncate -s 1800M root.ext4
    truncate -s 2032M stock.img
    mke2fs -q -t ext4 -d tree root.ext4
    cp "$kernel" kernel8.img
    if [ "$layout" = pi ]; then
        printf '[all]\narm_64bit=1\nkernel=kernel8.img\ninitramfs initrd.img followkernel\n' >config.txt
        echo 'console=ttyAMA0,115200 console=ttyS1,115200 root=PARTUUID=5eed0001-02 rootfstype=ext4 fsck.repair=yes rootwait' >cmdline.txt
        mkfs.vfat -F 32 -n BOOTFS boot.fat >/dev/null
        mcopy -i boot.fat config.txt cmdline.txt initrd.img kernel8.img ::
        tree_file=$(find tree/usr/lib tree/boot -path "*linux*" -name bcm2837-rpi-3-b.dtb | head -1)
        if [ -n "$tree_file" ]; then mcopy -i boot.fat "$tree_file" ::; fi
        printf 'label: dos\nlabel-id: 0x5eed0001\nstart=8192,size=409600,type=c\nstart=417792,size=3686400,type=83\n'
    else
        mkfs.vfat -F 32 -n EFI boot.fat >/dev/null
        mmd -i boot.fat ::EFI ::EFI/debian
        # Linux root for 64-bit Arm, and EFI's own.
        printf 'label: gpt\n1: start=417792,size=3686400,type=B921B045-1DF0-41C3-AF44-4C6F280D3FAE\n15: start=8192,size=409600,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n'
    fi | sfdisk -q --no-reread --no-tell-kernel stock.img
    dd if=boot.fat of=stock.img bs=1M seek=4 conv=notrunc status=none
    dd if=root.ext4 of=stock.img bs=1M seek=204 conv=notrunc,sparse status=none
    rm -rf tree early boot.fat root.ext4
}

# --- A hub that boards reach at 10.0.2.2, and a door into the board.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start_hub() { # [OPTIONS]
    local port
    port=$(free_port)
    rm -rf hub && mkdir hub
    export SKERRY_DATA=$PWD/hub
    "$skerry" hub --api 127.0.0.1:0 --listen "127.0.0.1:$port" --advertise "10.0.2.2:$port" "$@" >hub.log 2>&1 &
    pids+=($!)
    for _ in $(seq 60); do grep -q 'skerry hub ready' hub.log && return; sleep 1; done
    die "the hub does not start: $work/hub.log"
}
make_ssh_key() {
    rm -f ssh.key ssh.key.pub
    ssh-keygen -q -t ed25519 -N '' -C test -f ssh.key
    ssh_port=$(free_port)
}
ssh_options=(-q -i ssh.key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
    -o ConnectTimeout=60 -o ServerAliveInterval=30)
on_board() { ssh "${ssh_options[@]}" -p "$ssh_port" root@127.0.0.1 "$@"; }
ssh_answers() {
    for _ in $(seq 300); do on_board true 2>/dev/null && return; sleep 2; done
    die "nobody answers ssh on the board: $log"
}

board_machine() {
    rm -rf firmware && mkdir firmware
    local file common=(-accel tcg,thread=multi -display none -monitor none -nodefaults -no-reboot)
    if [ "$layout" = pi ]; then
        for file in kernel8.img initrd.img cmdline.txt; do mcopy -n -i card.img@@4M "::$file" firmware/; done
    else
        # What GRUB would do there, with what it would take from the system.
        cp kernel8.img initrd.img firmware/
        echo 'console=ttyAMA0,115200 root=/dev/vda1' >firmware/cmdline.txt
    fi
    common+=(-kernel firmware/kernel8.img -initrd firmware/initrd.img -append "$(head -1 firmware/cmdline.txt)" -netdev "user,id=n,hostfwd=tcp:127.0.0.1:$ssh_port-:22")
    if [ "$model" = virt ]; then
        exec qemu-system-aarch64 "${common[@]}" -M virt -cpu cortex-a53 -smp 2 -m 1024 -serial stdio \
            -drive file=card.img,format=raw,if=none,id=d -device virtio-blk-pci,drive=d \
            -device virtio-net-pci,netdev=n,romfile= -device virtio-rng-pci
    fi
    mcopy -n -i card.img@@4M ::bcm2837-rpi-3-b.dtb firmware/
    exec qemu-system-aarch64 "${common[@]}" -M raspi3b -serial null -serial stdio -dtb firmware/bcm2837-rpi-3-b.dtb \
        -drive file=card.img,format=raw,if=sd -device usb-net,netdev=n
}
# switch_on NAME: gives it power; its console goes to NAME.log.
switch_on() {
    log=$work/$1.log
    (board_machine) >"$log" 2>&1 </dev/null &
    board=$! && pids+=("$board")
}
# A restart ends the emulated board.
board_ends() {
    for _ in $(seq 600); do
        kill -0 "$board" 2>/dev/null || { wait "$board" || true; return 0; }
        sleep 1
    done
    return 1
}
joined() { # NAME
    for _ in $(seq 600); do "$skerry" get devices 2>/dev/null | grep -q "^$1 *online" && return; sleep 1; done
    die "the board did not join: $log, $work/hub.log"
}

# --- An app, of the root's own shell.
make_image() {
    rm -f layer.tar
    tar -C "$root" -cf layer.tar --dereference --transform 's,^bin/,usr/bin/,' bin/dash bin/sleep lib/ld-linux-aarch64.so.1 \
        usr/lib/aarch64-linux-gnu/libc.so.6
    python3 - <<'F'
import hashlib, io, json, tarfile
layer = open("layer.tar", "rb").read()
digest = hashlib.sha256(layer).hexdigest()
config = json.dumps({"architecture": "arm64", "os": "linux", "config": {"Env": ["LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu"]},
                     "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]}}).encode()
name = hashlib.sha256(config).hexdigest() + ".json"
manifest = json.dumps([{"Config": name, "RepoTags": ["hello:1"], "Layers": ["l/layer.tar"]}]).encode()
with tarfile.open("hello.tar", "w") as archive:
    for path, data in ((name, config), ("l/layer.tar", layer), ("manifest.json", manifest)):
        info = tarfile.TarInfo(path)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
F
    "$skerry" image import hello.tar
}
app_runs() { # NAME
    for _ in $(seq 180); do "$skerry" get apps | grep -q "^$1 *1/1" && break; sleep 1; done
    "$skerry" get apps
    "$skerry" get apps | grep -q "^$1 *1/1" || die "the app $1 does not run"
}
app_said() { # NAME WORDS
    local said=
    for _ in $(seq 60); do
        said=$(timeout 20 "$skerry" logs "$1" 2>/dev/null || true)
        case $said in *"$2"*) return ;; esac
        sleep 1
    done
    die "the app $1 does not say '$2' but '$said'"
}
hello_app() {
    cat >hello.yaml <<'F'
apiVersion: skerry/v1
kind: App
metadata: { name: hello }
spec:
  template:
    spec:
      containers:
      - name: hello
        image: hello:1
        command: [/usr/bin/dash, -c, 'read word </proc/sys/kernel/random/uuid; echo hello from a board: $word; while :; do /usr/bin/sleep 5; done']
        resources: { limits: { memory: 32Mi, cpu: 250m } }
F
    "$skerry" apply -f hello.yaml
    app_runs hello
    app_said hello 'hello from a board'
}
# AppArmor's profile is the kernel's, the process of hello_app has it, and so has a
# further one, which it refuses what a mask would only hide.
profiles() { on_board cat /sys/kernel/security/apparmor/profiles; }
is_confined() {
    profiles | grep -qx 'skerry-default (enforce)' || die "the kernel does not have the profile: $(profiles)"
    local its said
    its=$(on_board 'cat /proc/$(pgrep -f "[d]ash -c read word")/attr/current')
    [ "$its" = 'skerry-default (enforce)' ] || die "AppArmor has the app as '$its'"
    said=$("$skerry" exec hello -- /usr/bin/dash -c 'read -r its </proc/self/attr/current; echo "$its"; read -r x </proc/kcore' 2>&1 || true)
    case $said in
        'skerry-default (enforce)'*'/proc/kcore: Permission denied'*) echo "AppArmor: $(echo "$said" | xargs)" ;;
        *) die "AppArmor refuses nothing: $said" ;;
    esac
}
# What must go on when the agent changes: a new start of the app would say
# another word, and another keeper would have another pid.
lives() {
    local said=
    # An agent that was just started again has yet to call the hub.
    for _ in $(seq 30); do
        said=$("$skerry" logs hello 2>/dev/null) && break
        sleep 1
    done
    echo "said=$said"
    # shellcheck disable=SC2016 # for the board's shell
    on_board 'echo "keeper=$(pgrep -f "[s]kerry-agent keeper")"; echo "app=$(pgrep -f "[d]ash -c read word")"'
}
unit() { on_board "systemctl show skerry-agent -p $1 --value"; }
# The program as if it were of another release.
stamp_agent() { # FILE VERSION OUT
    python3 - "$@" <<'F'
import sys
agent, version, out = sys.argv[1:]
mark = b"\0skerry-agent version="
data = bytearray(open(agent, "rb").read())
at = data.index(mark)
data[at:at + 96] = (mark + version.encode()).ljust(96, b"\0")
open(out, "wb").write(data)
F
}
