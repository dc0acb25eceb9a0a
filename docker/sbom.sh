#!/bin/sh
# Prints the bill of materials of a package's programs, as CycloneDX 1.5 (JSON): every crate that is compiled into them on
# this machine's platform, with its version, licence and the checksum of Cargo.lock. Not in it: crates that only build or
# test, Rust's own library, and the C library, which comes from the image's base.
#
#   docker/sbom.sh conclave-cli
#
# Where there is no cargo, so that nobody can say which crates of Cargo.lock the package uses, it prints all of them.
set -eu
cd "$(dirname "$0")/.."
package=$1
cargo=${CARGO:-cargo}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# Lines `name vVERSION|licence`.
crates() {
    if command -v "$cargo" >/dev/null; then
        host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
        "$cargo" tree --locked --package "$package" --edges normal,no-proc-macro --target "$host" --prefix none \
            --format '{p}|{l}'
    else
        echo "no cargo here: all crates of Cargo.lock" >&2
        awk -F '"' '/^name = / { name = $2 } /^version = / && name { print name " v" $2 "|"; name = "" }' Cargo.lock
    fi
}
listed=$(crates)
# From `name vVERSION (folder)|licence (*)`, where the last is a repetition.
printf '%s\n' "$listed" | sed 's/ (\*)$//; s/ (\/[^|]*)|/|/; s/ (proc-macro)|/|/' | LC_ALL=C sort -u |
    awk -F '|' -v package="$package" -v version="$version" '
    FILENAME != "-" {
        if (split($0, quoted, "\"") < 2) next
        if (/^name = /) name = quoted[2]
        if (/^version = /) id = name " v" quoted[2]
        if (/^source = /) source[id] = quoted[2]
        if (/^checksum = /) checksum[id] = quoted[2]
        next
    }
    FNR == 1 {
        print "{\"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.5\", \"version\": 1,"
        print " \"metadata\": {\"component\": {\"type\": \"application\", \"bom-ref\": \"" package "\", \"name\": \"" package \
            "\", \"version\": \"" version "\"}},"
        print " \"components\": ["
    }
    {
        split($1, part, " v")
        if (part[1] == package) next
        licence = $2
        gsub(" */ *", " OR ", licence)
        purl = "pkg:cargo/" part[1] "@" part[2]
        line = "  {\"type\": \"library\", \"bom-ref\": \"" purl "\", \"name\": \"" part[1] "\", \"version\": \"" part[2] "\""
        if ($1 in source) line = line ", \"purl\": \"" purl "\""
        if (licence != "") line = line ", \"licenses\": [{\"expression\": \"" licence "\"}]"
        if ($1 in checksum) line = line ", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"" checksum[$1] "\"}]"
        printf "%s%s}", (count++ ? ",\n" : ""), line
    }
    END { print "\n ]}" }' Cargo.lock -
