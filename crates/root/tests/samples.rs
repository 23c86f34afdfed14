//! Rows of the accounts as earlier releases stored them: `samples/<release>/<table>.json`. Every later release must
//! start from them; see "a message or a stored row" in CONTRIBUTING.md.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test they are called from")]

use std::fs;
use std::path::Path;

use oak_control::{Row, Table};
use oak_root::accounts::{Accounts, Role};

#[test]
fn accounts_of_earlier_releases_are_loaded() {
    for release in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")).unwrap() {
        let release = release.unwrap().path();
        let row = |table, name: &str, addition: &str| {
            let text = fs::read_to_string(release.join(name)).unwrap();
            // With a field that only a later release knows.
            let text = text.replacen('{', addition, 1);
            Row { table, key: name.to_owned(), document: Some(text.into_bytes()) }
        };
        for addition in ["{", "{ \"added_later\": [1], "] {
            let rows = [
                row(Table::User, "user.json", addition),
                row(Table::Organization, "organization.json", addition),
            ];
            let accounts = Accounts::load(&rows).unwrap();
            let organization = accounts.organization_named("root").unwrap().id;
            assert_eq!(accounts.principal("Admin", organization).unwrap().roles, Role::ALL);
            assert!(accounts.credentials("Admin").unwrap().default_password);
        }
    }
}
