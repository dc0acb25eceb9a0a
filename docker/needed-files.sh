#!/bin/sh
# Copies what a program needs of the Debian that this runs on into a folder, which is then the root of an image.
#
#   docker/needed-files.sh FOLDER PROGRAM
#
# That is: the shared libraries that the program is linked with, the certificates of public authorities, an account, and
# the records and copyrights of the packages that all of it is from, where scanners look for them.
set -eu

root=$1
program=$2
packages=

# copy FILE: with its folders; a link as the file that it leads to.
copy() {
    mkdir -p "$root$(dirname "$1")"
    cp -L --preserve=mode,timestamps "$1" "$root$1"
}
from_package() {
    owner=$(dpkg-query --search "$1" | sed 's/[:,].*//')
    case " $packages " in *" $owner "*) ;; *) packages="$packages $owner" ;; esac
}

mkdir -p "$root/tmp" "$root/etc" "$root/var/lib/dpkg/status.d"
chmod 1777 "$root/tmp"

libraries=$(ldd "$program" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' | sort -u)
[ -n "$libraries" ]
for library in $libraries; do
    copy "$library"
    from_package "$library"
done
# Debian's published image has none.
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    copy /etc/ssl/certs/ca-certificates.crt
    packages="$packages ca-certificates"
fi
copy /etc/os-release
packages="$packages base-files"
for package in $packages; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
    if [ -s "/usr/share/doc/$package/copyright" ]; then copy "/usr/share/doc/$package/copyright"; fi
done

echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/:/usr/sbin/nologin
conclave:x:65532:65532:conclave:/data:/usr/sbin/nologin
END
cat >"$root/etc/group" <<'END'
root:x:0:
conclave:x:65532:
END
