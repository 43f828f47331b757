//! What a client reads where the local service has no answer: as the server's own pages are, HTML for browsers, JSON for programs that
//! ask for it, else plain text. It is public, so it does not say where the service would be: that is in the agent's log.

use http::{HeaderMap, header::ACCEPT};
use serde_json::json;

/// How the page is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    Html,
    Json,
    Text,
}

impl Reads {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let accepted = || headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let names = |what: &str| accepted().any(|value| value.contains(what));
        match (names("text/html"), names("json")) {
            (true, _) => Self::Html,
            (_, true) => Self::Json,
            _ => Self::Text,
        }
    }
}

/// The content type and the text.
pub(super) fn bad_gateway(why: &str, reads: Reads) -> (&'static str, String) {
    let owner = format!("To the agent, {why} (Its messages say where it looks.)");
    match reads {
        Reads::Json => {
            let error =
                json!({ "status": 502, "error": "no-service", "title": TITLE, "detail": VISITOR, "owner": owner });
            ("application/json", format!("{error}\n"))
        }
        Reads::Text => ("text/plain; charset=utf-8", format!("502 {TITLE}\n\n{VISITOR}\nIf it is yours: {owner}\n")),
        Reads::Html => ("text/html; charset=utf-8", html(&escaped(&owner))),
    }
}

fn html(owner: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{TITLE}</title>\n\
         <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;\
         padding:0 1em}}</style>\n<h1>502: {TITLE}</h1>\n<p>{VISITOR}\n<p>If it is yours: {owner}\n</html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const TITLE: &str = "The service of this site does not answer";
const VISITOR: &str = "The tunnel works, but the service behind it does not. Try again later.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_programs_json_and_all_others_text() {
        for (accept, reads) in [
            ("application/json", Reads::Json),
            ("application/problem+json, */*", Reads::Json),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Reads::Html),
            ("*/*", Reads::Text),
        ] {
            let headers = [(ACCEPT, accept.parse().unwrap())].into_iter().collect();
            assert_eq!(Reads::of(&headers), reads, "{accept}");
        }
        assert_eq!(Reads::of(&HeaderMap::new()), Reads::Text);
    }

    #[test]
    fn what_went_wrong_is_no_markup() {
        let (_, page) = bad_gateway("<b> & more.", Reads::Html);
        assert!(page.contains("&lt;b&gt; &amp; more."), "{page}");
    }
}
