//! The web page, built from `web/` and carried in the program.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const FILES: [File; 4] = [
    File {
        path: "/",
        kind: "text/html; charset=utf-8",
        bytes: include_bytes!("../../../web/dist/index.html"),
    },
    File {
        path: "/app.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../../web/dist/app.js"),
    },
    File {
        path: "/app.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../../../web/dist/app.css"),
    },
    File {
        path: "/licenses.txt",
        kind: "text/plain; charset=utf-8",
        bytes: include_bytes!("../../../web/dist/licenses.txt"),
    },
];

/// The file at this path.
pub(super) fn find(path: &str) -> Option<Response<Full<Bytes>>> {
    let path = if path == "/index.html" { "/" } else { path };
    let file = FILES.iter().find(|file| file.path == path)?;
    let mut response = Response::new(Full::new(Bytes::from_static(file.bytes)));
    *response.status_mut() = StatusCode::OK;
    // The page's own policy is in the page; framing can only be forbidden by a header.
    for (name, value) in [
        (header::CONTENT_TYPE, file.kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        response
            .headers_mut()
            .insert(name, header::HeaderValue::from_static(value));
    }
    Some(response)
}
