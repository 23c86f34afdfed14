#!/usr/bin/env bash
# Runs the tests of the kernel's WireGuard (docs/dev/tunnel.md) in a virtual machine with Debian's kernel, which has WireGuard:
# not every kernel has. Nothing is installed; the machine sees the files of this one, and what it writes is gone with it.
# Usage: scripts/kernel-wireguard.sh [COMMAND...]       another command instead of the tests, as root, in this directory
# VM_ACCEL: kvm where that works (tcg). VM_MEMORY, VM_CPUS, VM_SECONDS: 3072 MiB, 2, at most 1800 s.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

work="$target/kernel-wireguard"
kernel="$work/kernel"

for program in qemu-system-x86_64 busybox dpkg-deb apt-get; do
    has "$program" || die "$program is missing; on Debian: apt-get install qemu-system-x86 busybox-static"
done

# The newest kernel of Debian, unpacked and not installed.
fetch() {
    local package
    package="$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)"
    [ -n "$package" ] || die "apt knows no linux-image-amd64"
    [ -e "$work/$package.done" ] && return
    rm -rf "$work"
    mkdir -p "$kernel"
    (cd "$work" && apt-get download "$package" && dpkg-deb -x "$package"_*.deb "$kernel" && rm "$package"_*.deb)
    busybox depmod -b "$kernel" "${package#linux-image-}"
    touch "$work/$package.done"
}

# The modules that are needed until the files of this machine can be read, in the order in which they are loaded.
modules_for() {
    local module
    for module in "$@"; do
        sed -n "s|^\(\S*/$module\.ko\): *\(.*\)|\1 \2|p" "$modules/modules.dep" | tr ' ' '\n' | tac
    done | awk 'NF && !seen[$0]++'
}

make_initrd() {
    local ram="$work/initrd" file
    rm -rf "$ram"
    mkdir -p "$ram"/{bin,proc,sys,dev,modules,lower,upper,new}
    cp "$(command -v busybox)" "$ram/bin/busybox"
    modules_for virtio_pci 9pnet_virtio 9p overlay >"$ram/modules/order"
    while read -r file; do
        cp "$modules/$file" "$ram/modules/"
    done <"$ram/modules/order"
    cat >"$ram/init" <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/\${module##*/}"; done </modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /lower
mount -t tmpfs -o size=80% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new
for directory in proc sys dev; do mount --move /\$directory /new/\$directory; done
mount -t tmpfs tmpfs /new/run
mkdir -p /new/dev/pts /new/lib/modules
mount -t devpts devpts /new/dev/pts
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
cp /bin/busybox /new/bin/busybox
ln -sfn "$modules" "/new/lib/modules/$release"
cp /modprobe /new/sbin/modprobe
exec switch_root /new /bin/bash "$work/start.sh"
END
    # What the kernel calls when it lacks a module.
    cat >"$ram/modprobe" <<'END'
#!/bin/busybox sh
exec /bin/busybox modprobe "$@"
END
    cat >"$work/start.sh" <<END
# Rules would ask for them one by one, which takes long here.
for module in tun veth bridge wireguard nft_fib_inet nft_chain_nat nft_masq nft_numgen nft_hash nft_limit nft_reject_inet \\
    nf_conntrack_netlink; do
    /sbin/modprobe "\$module"
done
/bin/busybox ip link set lo up
/bin/bash "$work/command.sh"
echo "exit \$?" >/dev/ttyS1
/bin/busybox poweroff -f
END
    chmod +x "$ram/init" "$ram/modprobe"
    (cd "$ram" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd.gz"
}

fetch
release="$(ls "$kernel/lib/modules")"
modules="$kernel/lib/modules/$release"

# The program of the tests with this name of a crate.
tests_of() {
    cargo test --package "$1" --test "$2" --no-run >&2
    cargo test --package "$1" --test "$2" --no-run --message-format json 2>/dev/null |
        sed -n "s/.*\"executable\":\"\([^\"]*\/$2-[^\"]*\)\".*/\1/p" | tail -n 1
}

if [ $# -eq 0 ]; then
    network="$(tests_of oak-net network)"
    tunnel="$(tests_of oak-tunnel tunnel)"
    set -- sh -c '"$0" kernel:: && "$1" --test-threads 1 kernel::' "$network" "$tunnel"
fi
{
    echo "export PATH='$PATH:/usr/sbin:/sbin' HOME='$HOME' OAK_BINARY='$oak' CARGO_TARGET_DIR='$target' TMPDIR=/run"
    echo "cd '$root' && exec $(printf '%q ' "$@")"
} >"$work/command.sh"
make_initrd

rm -f "$work/outcome"
timeout "${VM_SECONDS:-1800}" qemu-system-x86_64 -accel "${VM_ACCEL:-tcg,thread=multi}" -cpu max -m "${VM_MEMORY:-3072}" \
    -smp "${VM_CPUS:-2}" -display none -no-reboot -nic none -serial stdio -serial "file:$work/outcome" \
    -kernel "$kernel/boot/vmlinuz-$release" -initrd "$work/initrd.gz" \
    -append "console=ttyS0 panic=-1 quiet" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap </dev/null ||
    die "the virtual machine did not end in time"
grep -q '^exit 0' "$work/outcome" || die "failed"
