//! The status page: one HTML file with its style and script, which polls `/status` and draws the changes. It loads
//! nothing else; `tests/real_clients/check_page.py` tests it in Chromium.

/// The page, served at `/`.
pub const HTML: &str = include_str!("status.html");

/// What the page may do, for `Content-Security-Policy`: run what it holds, ask where it came from, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    /// Names come from configurations and errors: nothing of `/status` may ever be read as markup.
    #[test]
    fn makes_no_markup_of_data() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function("]
        {
            assert!(!HTML.contains(way), "{way}");
        }
    }

    #[test]
    fn asks_nobody_else() {
        // The name of SVG is an address that nobody asks.
        let rest = HTML.replace("http://www.w3.org/2000/svg", "");
        assert!(!rest.contains("://"), "{:?}", rest.split_once("://").map(|(_, address)| &address[..20]));
        for way in ["<link rel=\"stylesheet", "src=", "@import", "import("] {
            assert!(!HTML.contains(way), "{way}");
        }
        assert_eq!(HTML.matches("url(").count(), HTML.matches("url(#").count());
    }

    /// So that a policy of hashes works as well as `unsafe-inline`.
    #[test]
    fn has_one_style_one_script_and_no_attributes_of_either() {
        assert_eq!((HTML.matches("<style>").count(), HTML.matches("<script>").count()), (1, 1));
        let (markup, _) = HTML.split_once("<script>").unwrap();
        assert!(!markup.contains(" style=") && !markup.contains(" onclick="));
    }
}
