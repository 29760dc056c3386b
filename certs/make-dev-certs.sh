#!/bin/sh
# Development certificates: an authority (made once) and a certificate for the hosts, next to this script.
#   make-dev-certs.sh [--openssl] [HOST...]        default hosts: localhost 127.0.0.1 ::1
# With --openssl, or where cargo is not to be had, openssl makes them; otherwise `tidegate cert` does.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
with=cargo
if [ "${1-}" = --openssl ]; then
    with=openssl
    shift
elif ! command -v cargo >/dev/null 2>&1; then
    with=openssl
fi
[ $# -gt 0 ] || set -- localhost 127.0.0.1 ::1

if [ "$with" = cargo ]; then
    exec cargo run --quiet --manifest-path "$here/../Cargo.toml" -- cert --force --out "$here" "$@"
fi

umask 077
# The first host names the files; `*.example.test` becomes _.example.test.
name=$(printf %s "$1" | tr -c 'A-Za-z0-9._-' _)
names=
for host in "$@"; do
    case $host in
        *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) names="$names,IP:$host" ;;
        *) names="$names,DNS:$host" ;;
    esac
done
cd -- "$here"

extensions=$(mktemp)
request=$(mktemp)
trap 'rm -f "$extensions" "$request"' EXIT

if ! [ -f ca.pem ] || ! [ -f ca.key ]; then
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key
    # The name and the key identifier that `tidegate cert` would give it, so that it can sign with this authority later.
    id=$(openssl pkey -in ca.key -pubout -outform DER | openssl dgst -sha256 | sed 's/.*= *//' | cut -c1-40)
    cat >"$extensions" <<AUTHORITY
[req]
prompt = no
distinguished_name = name
x509_extensions = authority
[name]
CN = Tidegate development authority $(printf %.8s "$id")
[authority]
subjectKeyIdentifier = $id
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
AUTHORITY
    openssl req -x509 -new -key ca.key -sha256 -days 730 -utf8 -config "$extensions" -out ca.pem
fi

cat >"$extensions" <<EXTENSIONS
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
subjectAltName = ${names#,}
EXTENSIONS
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$name.key"
openssl req -new -key "$name.key" -subj "/CN=$1" -out "$request"
serial=0x$(openssl rand -hex 16 | sed 's/^[89a-f]/1/')
openssl x509 -req -in "$request" -CA ca.pem -CAkey ca.key -set_serial "$serial" -sha256 -days 90 \
    -extfile "$extensions" -out "$name.leaf" 2>/dev/null
cat "$name.leaf" ca.pem >"$name.pem"
rm -f "$name.leaf"
chmod 644 ca.pem "$name.pem"
echo "certs/ca.pem  certs/ca.key  certs/$name.pem  certs/$name.key"
