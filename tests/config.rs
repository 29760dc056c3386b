//! Configuration files: what they come to, and what is said about what is wrong with them.

use tidegate::config;

#[test]
fn the_smallest_file_loads() {
    let config = config::load(std::path::Path::new("config/minimal.toml")).unwrap_or_else(|f| panic!("{f}"));
    println!("{}", config::summary(&config));
}

#[test]
fn reference_loads() {
    let text = config::reference::reference();
    println!("{text}");
    let config = config::parse("reference.toml", &text).unwrap_or_else(|f| panic!("{f}"));
    println!("{}", config::summary(&config));
}
