//! What a client reads where the local service has no answer. It is public, so it says no more than whoever runs the tunnel needs, who
//! will be the first to read it.

use http::{HeaderMap, header::ACCEPT};
use serde_json::json;

/// The content type and the text.
pub(super) fn bad_gateway(target: &str, why: &str, is_for_machines: bool) -> (&'static str, String) {
    if is_for_machines {
        let error = json!({ "error": "bad_gateway", "message": why, "target": target });
        return ("application/json", format!("{error}\n"));
    }
    let (target, why) = (escaped(target), escaped(why));
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>502 Bad Gateway</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em}}</style>\n\
         <h1>502: no answer from the local service</h1>\n\
         <p>The tunnel works, but behind it {why}\n\
         <p>If this is yours: the agent tried <code>{target}</code>. Start the service there, or start the agent with the place where \
         it is, and reload.\n</html>\n"
    );
    ("text/html; charset=utf-8", text)
}

/// Whether JSON is asked for and no page.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    let mut accepted =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(','));
    let wanted = accepted.find_map(|range| {
        let kind = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => Some(true),
            "text/html" | "text/*" => Some(false),
            kind => kind.ends_with("+json").then_some(true),
        }
    });
    wanted.unwrap_or(false)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_ask_for_json_get_it_and_browsers_get_a_page() {
        for (accept, is) in [
            ("application/json", true),
            ("application/json, text/plain, */*", true),
            ("application/problem+json", true),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
            ("*/*", false),
        ] {
            let headers = [(ACCEPT, accept.parse().unwrap())].into_iter().collect();
            assert_eq!(wants_json(&headers), is, "{accept}");
        }
        assert!(!wants_json(&HeaderMap::new()));
    }

    #[test]
    fn a_targets_name_is_no_markup() {
        let (_, page) = bad_gateway("<b>:80", "a & b", false);
        assert!(page.contains("&lt;b&gt;:80") && page.contains("a &amp; b"), "{page}");
    }
}
