#!/bin/sh
# Makes a Debian package of DIR/root, where `make install` has put the files:
#   packaging/deb.sh DIR VERSION
# DEBFULLNAME and DEBEMAIL say who it is from, as for all tools of Debian's.
set -eu
umask 022

dir=$1 version=$2-1
here=$(cd "$(dirname "$0")" && pwd)
root=$dir/root
doc=$root/usr/share/doc/shifter
maintainer="${DEBFULLNAME:-$(id -un)} <${DEBEMAIL:-$(id -un)@$(hostname -f 2>/dev/null || hostname)}>"

# The same sources make the same package: its dates are those of the last commit.
: "${SOURCE_DATE_EPOCH:=$(git -C "$here" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

# What dpkg's tools want to find beside them.
mkdir -p "$dir/debian"
sed "s|@MAINTAINER@|$maintainer|" "$here/debian/control" >"$dir/debian/control"
cat >"$dir/debian/changelog" <<END
shifter ($version) UNRELEASED; urgency=medium

  * changelog.gz beside this file says what is new.

 -- $maintainer  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
END

strip --strip-unneeded --remove-section=.comment "$root"/usr/bin/* "$root/usr/lib/slurm/shifter.so"
gzip --best --no-name "$root"/usr/share/man/man1/*.1
install -d "$doc" "$root/DEBIAN"
install -m 644 "$here/debian/copyright" "$here/../README.md" "$doc"
install -m 644 "$here"/../docs/*.md "$doc"
gzip --best --no-name --stdout "$dir/debian/changelog" >"$doc/changelog.Debian.gz"
gzip --best --no-name --stdout "$here/../CHANGELOG.md" >"$doc/changelog.gz"
chmod -R go=rX "$root"

cd "$root"
find etc -type f -printf '/%p\n' | sort >DEBIAN/conffiles
find usr -type f -exec md5sum {} + | sort --key=2 >DEBIAN/md5sums
cd "$dir"
dpkg-shlibdeps root/usr/bin/* root/usr/lib/slurm/shifter.so
dpkg-gencontrol -pshifter -Proot
dpkg-deb --root-owner-group --build root .
