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
# A bill of materials in SPDX 2.3 tag-value form, made where the packages are.
{
    echo "SPDXVersion: SPDX-2.3"
    echo "DataLicense: CC0-1.0"
    echo "SPDXID: SPDXRef-DOCUMENT"
    echo "DocumentName: vitrine-base"
    dpkg-query -W -f='\nPackageName: ${Package}\nSPDXID: SPDXRef-deb-${Package}\nPackageVersion: ${Version}\nPackageDownloadLocation: NOASSERTION\n'
} > /usr/share/vitrine/sbom.spdx
