//! The document of the API says what the routes do, and the committed copy is the one that is served.

use std::collections::BTreeSet;
use std::path::Path;

use oak_root::api::paths;
use serde_json::Value;

use crate::world::World;

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

async fn served(world: &World) -> Value {
    let answer = world.call("GET", "/docs/openapi.json").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Operations as `method path`.
fn documented(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect()
}

/// The same, found by asking: a method that a route does not know is answered with 405.
async fn routed(world: &World) -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for path in paths() {
        let concrete: Vec<_> =
            path.split('/').map(|word| if word.starts_with('{') { "7" } else { word }).collect();
        for method in METHODS {
            let call = world.call(&method.to_uppercase(), &concrete.join("/"));
            if call.send().await.status != 405 {
                operations.insert(format!("{method} {path}"));
            }
        }
    }
    operations
}

#[tokio::test]
async fn every_route_is_documented_and_nothing_else() {
    let world = World::start().await;
    let (documented, routed) = (documented(&served(&world).await), routed(&world).await);
    let missing: Vec<_> = routed.difference(&documented).collect();
    let surplus: Vec<_> = documented.difference(&routed).collect();
    assert!(missing.is_empty(), "routes without an operation in src/api/openapi: {missing:#?}");
    assert!(surplus.is_empty(), "operations without a route in src/api/router.rs: {surplus:#?}");
}

#[tokio::test]
async fn the_committed_document_is_the_one_that_is_served() {
    let world = World::start().await;
    let served = world.call("GET", "/docs/openapi.json").send().await.text;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &served).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == served, "docs/openapi.json is not up to date: run this test with UPDATE=1");
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let world = World::start().await;
    let document = served(&world).await;
    let mut used = BTreeSet::new();
    collect_references(&document, &mut used);
    for reference in &used {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for kind in ["schemas", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(used.contains(&reference), "nothing refers to {reference}");
        }
    }
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(reference) if key == "$ref" => _ = found.insert(reference.clone()),
                    other => collect_references(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_runs_no_script_of_its_own() {
    let world = World::start().await;
    for path in ["/api/docs", "/api/docs/"] {
        let page = world.call("GET", path).send().await;
        assert_eq!(page.status, 200);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!page.text.contains("http://") && !page.text.contains("https://"), "{}", page.text);
        assert!(!page.text.contains("<script>") && !page.text.contains("style="), "{}", page.text);
        for (asset, kind) in [("/assets/api.js", "text/javascript"), ("/assets/api.css", "text/css")] {
            assert!(page.text.contains(asset), "{}", page.text);
            let answer = world.call("GET", asset).send().await;
            assert_eq!(answer.status, 200);
            assert!(answer.headers["content-type"].to_str().unwrap().starts_with(kind));
        }
    }
}
