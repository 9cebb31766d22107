#!/bin/sh
# Runs once inside a base image. $1: Debian packages to install, "" when they are there already (bootstrap from Debian packages).
set -eu
if [ -n "$1" ]; then
    apt-get update
    # shellcheck disable=SC2086  # a list of names on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1
    rm -rf /var/lib/apt/lists/*
fi
if ! getent passwd 1000 >/dev/null; then
    useradd --uid 1000 --user-group --create-home --home-dir /home/user user
fi
mkdir -p /home/user/app /usr/share/vitrine
chown -R 1000:1000 /home/user
# A bill of materials, made where the packages are: SPDX 2.3, tag-value form (https://spdx.github.io/spdx-spec/v2.3/).
# Identifiers have letters, digits, dots and hyphens only, so that of libstdc++6 is not its name.
package() { # name, version, package URL
    id=$(printf %s "$1" | sed 's/[^A-Za-z0-9.-]/-/g')
    while grep -q "^SPDXID: SPDXRef-$id$" "$sbom"; do id="$id-"; done
    printf '\nPackageName: %s\nSPDXID: SPDXRef-%s\nPackageVersion: %s\n' "$1" "$id" "$2"
    printf 'PackageDownloadLocation: NOASSERTION\nFilesAnalyzed: false\nExternalRef: PACKAGE-MANAGER purl %s\n' "$3"
    printf 'Relationship: SPDXRef-DOCUMENT DESCRIBES SPDXRef-%s\n' "$id"
}
sbom=/usr/share/vitrine/sbom.spdx
cat > "$sbom" <<EOF
SPDXVersion: SPDX-2.3
DataLicense: CC0-1.0
SPDXID: SPDXRef-DOCUMENT
DocumentName: vitrine-base
DocumentNamespace: https://vitrine.invalid/sbom/$(cat /proc/sys/kernel/random/uuid)
Creator: Tool: vitrine-images
Created: $(date -u +%Y-%m-%dT%H:%M:%SZ)
EOF
dpkg-query -W -f='${Package} ${Version} ${Architecture}\n' | while read -r name version architecture; do
    url=$(printf 'pkg:deb/debian/%s@%s?arch=%s' "$name" "$version" "$architecture" | sed 's/+/%2B/g; s/~/%7E/g')
    package "$name" "$version" "$url" >> "$sbom"
done
uv=$(uv --version | cut -d ' ' -f 2)
package uv "$uv" "pkg:pypi/uv@$uv" >> "$sbom"
