//! Organisations with users of every role, for the tests that need them.

use serde_json::{Value, json};

use crate::world::World;

pub(crate) const PASSWORD: &str = "a password";

impl World {
    /// Creates an organisation; returns its id.
    pub(crate) async fn organization(&self, name: &str) -> String {
        let body = json!({ "name": name, "member": [] });
        let admin = self.admin().await;
        let answer = self.call("POST", "/api/organization/").token(&admin).json(&body).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.nested().as_str().unwrap().to_owned()
    }

    /// Registers a user in an organisation; returns its record.
    pub(crate) async fn register(&self, organization: &str, name: &str, roles: &[&str]) -> Value {
        let body = json!({
            "name": name, "password": PASSWORD, "email": "", "roles": roles, "organization": organization
        });
        let admin = self.admin().await;
        let answer = self.call("POST", "/api/auth/register").token(&admin).json(&body).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    /// Registers a user and logs it in.
    pub(crate) async fn user(&self, organization: &str, name: &str, roles: &[&str]) -> String {
        self.register(organization, name, roles).await;
        self.token(name, PASSWORD).await
    }
}

/// The id of the organisation `root`.
pub(crate) const ROOT: &str = "000000010000000000000003";
