//! Has the API server answer lists from what is newest, not from what it happens to have.

use kube::client::Body;

/// How `kube` ends the query of a list that is streamed: the state of the server's cache, however old.
const OF_ANY_AGE: &str = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0";

/// Asks for the newest state where a list is streamed. A server that has lost touch with the others may have one of minutes ago,
/// and an agent that knew a newer one would open what has been closed meanwhile. A list in pages is of the newest anyway.
pub(crate) fn of_the_newest(mut request: http::Request<Body>) -> http::Request<Body> {
    let query = request.uri().query().unwrap_or_default();
    if query.ends_with(OF_ANY_AGE) {
        let text = request.uri().to_string();
        if let Some(uri) = text.strip_suffix('0').and_then(|uri| uri.parse().ok()) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::of_the_newest;

    fn check(query: &str, expected: &str) {
        let uri = |query: &str| format!("https://192.0.2.1:6443/api/v1/pods?{query}");
        let request = http::Request::get(uri(query)).body(Body::empty()).unwrap();
        assert_eq!(of_the_newest(request).uri().to_string(), uri(expected));
    }

    #[test]
    fn a_streamed_list_is_of_the_newest_state_and_other_requests_are_as_they_were() {
        let streamed = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=";
        check(&format!("{streamed}0"), streamed);
        for other in ["watch=true&resourceVersion=0", "limit=500", "watch=true&resourceVersion=70"] {
            check(other, other);
        }
    }

    #[test]
    fn the_watcher_writes_its_query_as_it_is_expected_here() {
        let parameters = kube::api::WatchParams { send_initial_events: true, ..Default::default() };
        let request = kube::core::Request::new("/api/v1/pods").watch(&parameters, "0").unwrap();
        assert!(request.uri().to_string().ends_with(super::OF_ANY_AGE), "{}", request.uri());
    }
}
