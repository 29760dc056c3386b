#!/bin/sh
# Runs every fuzz target for a while: fuzz/run.sh [SECONDS EACH, default 20].
# Needs cargo-fuzz (`cargo install cargo-fuzz --locked`). No sanitizer: Tidegate has no unsafe code in what is fuzzed, and
# so the stable toolchain does. FUZZ_BUILD=--dev builds faster and fuzzes slower.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-20}
# Files that are accepted are good ones to begin with.
mkdir -p fuzz/corpus/config fuzz/corpus/client_hello
cp config/*.toml fuzz/corpus/config/
# Behind the length of the pieces they come in.
for hello in tests/hellos/*.bin; do
    { printf '\007'; cat "$hello"; } >fuzz/corpus/client_hello/"$(basename "$hello")"
done
# An unknown capsule and a datagram in one, behind the length of the pieces and whose side reads.
mkdir -p fuzz/corpus/http3_frames
printf '\007\001\027\003abc\000\005\000four' >fuzz/corpus/http3_frames/capsules
for target in config request_checks route_lookup forwarded client_hello proxy_header \
    http3_frames http3_message qpack_decoder qpack_link; do
    echo "== $target, $seconds s"
    RUSTC_BOOTSTRAP=1 cargo fuzz run ${FUZZ_BUILD:---release} --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=4096 -print_final_stats=1
done
