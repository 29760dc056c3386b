//! Any text is a configuration or a list of faults that can be printed; neither reading nor printing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::config;

fuzz_target!(|text: &str| {
    // Includes would read whatever files the input names.
    if text.contains("include") {
        return;
    }
    match config::parse("fuzz.toml", text) {
        Ok(config) => drop(config::summary(&config)),
        Err(faults) => {
            assert!(faults.len() > 0);
            let shown = faults.render(false);
            assert!(shown.starts_with("error") || shown.contains("\nerror"), "{shown}");
        }
    }
});
