//! The page of the document: plain files inside the program, nothing is fetched from elsewhere.

use axum::http::header;
use axum::response::IntoResponse;

use super::super::answer::Answer;

/// Path of the style sheet.
pub(in crate::api) const STYLE_PATH: &str = "/assets/api.css";
/// Path of the script.
pub(in crate::api) const SCRIPT_PATH: &str = "/assets/api.js";

/// The page talks only to the server it came from, and cannot be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /api/docs`.
pub(in crate::api) async fn page() -> Answer {
    answer("text/html; charset=utf-8", include_str!("page.html"))
}

/// The style sheet.
pub(in crate::api) async fn style() -> Answer {
    answer("text/css; charset=utf-8", include_str!("page.css"))
}

/// The script.
pub(in crate::api) async fn script() -> Answer {
    answer("text/javascript; charset=utf-8", include_str!("page.js"))
}

fn answer(kind: &'static str, text: &'static str) -> Answer {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // An upgrade of the program must reach the browser at once.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, text).into_response())
}
