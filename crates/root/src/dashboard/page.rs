//! The page and its files, all inside the program: nothing is fetched from elsewhere.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// Path of the style sheet.
pub(crate) const STYLE_PATH: &str = "/assets/page.css";
/// Path of the script.
pub(crate) const SCRIPT_PATH: &str = "/assets/page.js";

/// Path of the page for a forgotten password; links in mails lead there.
pub(crate) const RESET_PATH: &str = "/resetPassword/{token}";
/// Path of its script.
pub(crate) const RESET_SCRIPT_PATH: &str = "/assets/reset.js";

/// The page talks only to the server it came from, and cannot be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(crate) async fn page() -> Response {
    answer("text/html; charset=utf-8", include_str!("page.html"))
}

/// The style sheet.
pub(crate) async fn style() -> Response {
    answer("text/css; charset=utf-8", include_str!("page.css"))
}

/// The script.
pub(crate) async fn script() -> Response {
    answer("text/javascript; charset=utf-8", include_str!("page.js"))
}

/// `GET /resetPassword/<token>`: the same for every token, the script sends it on.
pub(crate) async fn reset() -> Response {
    answer("text/html; charset=utf-8", include_str!("reset.html"))
}

/// Its script.
pub(crate) async fn reset_script() -> Response {
    answer("text/javascript; charset=utf-8", include_str!("reset.js"))
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // An upgrade of the program must reach the browser at once.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
