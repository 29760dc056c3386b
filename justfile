# The recipes are those of CI: `.ci/run` holds the commands, so that what passes here passes there.

# What CI runs, whole.
ci:
    bash .ci/run

# One or more of CI's steps: packages fmt clippy doc deny test schema fuzz release demo package deploy clients side_by_side
step +steps:
    bash .ci/run {{steps}}

# Before a commit: everything that takes no release build.
quick:
    bash .ci/run fmt clippy doc test

# The suite with real clients and origins, on a release build.
clients:
    bash .ci/run release clients

# Tidegate beside nginx and HAProxy, on a release build.
compare *arguments:
    cargo build --locked --release
    benches/side_by_side/run {{arguments}}

# The criterion benchmarks of the rooms without I/O.
bench:
    cargo bench

# Serve the built-in demonstration.
demo:
    cargo run --release -- demo
