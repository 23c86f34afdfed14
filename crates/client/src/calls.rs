//! The calls of the API, one method each.

use std::time::Duration;

use oak_model::{Availability, Removal};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::record::{
    Application, Cluster, Explanation, JoinToken, Plan, Scaled, Service, ServicesCreated, TokenRole, Worker,
    WorkerDetails,
};

impl Client {
    /// Registers the applications of a descriptor with their services; returns all applications of the caller.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 409 if one of the names is taken, 422 if the descriptor is wrong.
    pub async fn create_applications(&self, descriptor: &Value) -> Result<Vec<Application>, ClientError> {
        let call = Call::new(Method::POST, &["api", "application", ""], "create the application");
        self.fetch(call.body(descriptor)).await
    }

    /// What registering the applications of a descriptor with `instances` of each service would do; nothing changes.
    ///
    /// # Errors
    /// As for [`Client::create_applications`].
    pub async fn plan_applications(&self, descriptor: &Value, instances: u32) -> Result<Plan, ClientError> {
        let call = Call::new(Method::POST, &["api", "application", ""], "plan the application");
        self.fetch(call.query("dry_run", true).query("instances", instances).body(descriptor)).await
    }

    /// Why an instance is where it is, or nowhere; without a number, where one more would go.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such service or instance.
    pub async fn explain(
        &self,
        service: &str,
        number: Option<u32>,
        all: bool,
    ) -> Result<Explanation, ClientError> {
        let number = number.map(|number| number.to_string());
        let mut path = vec!["api", "service", non_empty(service)?];
        path.extend(number.iter().flat_map(|number| ["instance", number]));
        path.push("explain");
        let call = Call::new(Method::GET, &path, format!("explain service {service}"));
        self.fetch(if all { call.query("all", true) } else { call }).await
    }

    /// All applications the caller may see.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn applications(&self) -> Result<Vec<Application>, ClientError> {
        self.fetch(Call::new(Method::GET, &["api", "applications", ""], "list the applications")).await
    }

    /// One application.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none.
    pub async fn application(&self, id: &str) -> Result<Application, ClientError> {
        let path = ["api", "application", non_empty(id)?];
        self.fetch(Call::new(Method::GET, &path, format!("read application {id}"))).await
    }

    /// Deletes an application with its services and instances.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none.
    pub async fn delete_application(&self, id: &str) -> Result<(), ClientError> {
        let path = ["api", "application", non_empty(id)?];
        let answer = self.execute(Call::new(Method::DELETE, &path, format!("delete application {id}"))).await;
        // The original says 501 for an application it does not know (root-api reference, 4.9.4).
        answer.map_err(|error| match error {
            ClientError::Refused { action, status: 501, .. } => ClientError::Refused {
                action,
                status: 404,
                message: "there is no such application".to_owned(),
            },
            other => other,
        })
    }

    /// Adds services to an existing application: a descriptor with one application that has its `applicationID`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 400 or 422 if the descriptor is wrong.
    pub async fn create_services(&self, descriptor: &Value) -> Result<ServicesCreated, ClientError> {
        self.fetch(Call::new(Method::POST, &["api", "service", ""], "add services").body(descriptor)).await
    }

    /// All services the caller may see.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.fetch(Call::new(Method::GET, &["api", "services", ""], "list the services")).await
    }

    /// The services of one application.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such application.
    pub async fn services_of(&self, application: &str) -> Result<Vec<Service>, ClientError> {
        let path = ["api", "services", non_empty(application)?];
        self.fetch(Call::new(Method::GET, &path, format!("list the services of application {application}")))
            .await
    }

    /// One service.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none.
    pub async fn service(&self, id: &str) -> Result<Service, ClientError> {
        let path = ["api", "service", non_empty(id)?];
        self.fetch(Call::new(Method::GET, &path, format!("read service {id}"))).await
    }

    /// Makes a service what a descriptor with exactly this service asks for; returns its record.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none, 409 while another update runs, 422 if the descriptor is
    /// wrong or asks for another name or address.
    pub async fn change_service(&self, id: &str, descriptor: &Value) -> Result<Service, ClientError> {
        let path = ["api", "service", non_empty(id)?];
        self.fetch(Call::new(Method::PUT, &path, format!("change service {id}")).body(descriptor)).await
    }

    /// Sets the number of instances a service keeps by itself.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none.
    pub async fn scale(&self, id: &str, replicas: u32) -> Result<Scaled, ClientError> {
        let path = ["api", "service", non_empty(id)?, "scale"];
        let call = Call::new(Method::PUT, &path, format!("scale service {id}"));
        self.fetch(call.body(&json!({"replicas": replicas}))).await
    }

    /// Calls the update of a service off, or takes the last one back; returns its record.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such service, 409 if it was not updated.
    pub async fn roll_back(&self, id: &str) -> Result<Service, ClientError> {
        let path = ["api", "service", non_empty(id)?, "update"];
        self.fetch(Call::new(Method::DELETE, &path, format!("roll back service {id}"))).await
    }

    /// Deletes a service with its instances.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if there is none.
    pub async fn delete_service(&self, id: &str) -> Result<(), ClientError> {
        let path = ["api", "service", non_empty(id)?];
        self.execute(Call::new(Method::DELETE, &path, format!("delete service {id}"))).await
    }

    /// Deploys one more instance of a service. Success means that the wish is stored, not that the instance runs.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn deploy(&self, service: &str) -> Result<(), ClientError> {
        let path = ["api", "service", non_empty(service)?, "instance"];
        self.execute(Call::new(Method::POST, &path, format!("deploy service {service}"))).await
    }

    /// Stops and removes one instance.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn undeploy(&self, service: &str, number: u32) -> Result<(), ClientError> {
        let number_text = number.to_string();
        let path = ["api", "service", non_empty(service)?, "instance", &number_text];
        self.execute(Call::new(
            Method::DELETE,
            &path,
            format!("undeploy instance {number} of service {service}"),
        ))
        .await
    }

    /// Stops and removes all instances of a service.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn undeploy_all(&self, service: &str) -> Result<(), ClientError> {
        let path = ["api", "service", non_empty(service)?, "instance", "-1"];
        self.execute(Call::new(Method::DELETE, &path, format!("undeploy service {service}"))).await
    }

    /// All clusters that ever registered.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn clusters(&self) -> Result<Vec<Cluster>, ClientError> {
        self.fetch(Call::new(Method::GET, &["api", "clusters", ""], "list the clusters")).await
    }

    /// The clusters that are connected.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn active_clusters(&self) -> Result<Vec<Cluster>, ClientError> {
        self.fetch(Call::new(Method::GET, &["api", "clusters", "active"], "list the active clusters")).await
    }

    /// The workers of one cluster.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such cluster.
    pub async fn workers(&self, cluster: &str) -> Result<Vec<Worker>, ClientError> {
        let path = ["api", "clusters", non_empty(cluster)?, "workers"];
        self.fetch(Call::new(Method::GET, &path, format!("list the workers of cluster {cluster}"))).await
    }

    /// One worker, by id or by name.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none, 409 if several have the name.
    pub async fn worker(&self, worker: &str) -> Result<WorkerDetails, ClientError> {
        let path = ["api", "workers", non_empty(worker)?];
        self.fetch(Call::new(Method::GET, &path, format!("read worker {worker}"))).await
    }

    /// Opens a worker for instances, closes it, or has it emptied. Success means that its cluster has stored it; moving
    /// instances away only begins then.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such worker, 409 if several have the name or its cluster is not
    /// connected, 504 if the cluster does not confirm.
    pub async fn set_availability(
        &self,
        worker: &str,
        availability: Availability,
    ) -> Result<WorkerDetails, ClientError> {
        let path = ["api", "workers", non_empty(worker)?, "availability"];
        let body = json!({"availability": availability});
        let action = match availability {
            Availability::Open => "open",
            Availability::Cordoned => "cordon",
            Availability::Draining => "drain",
        };
        self.fetch(Call::new(Method::PUT, &path, format!("{action} worker {worker}")).body(&body)).await
    }

    /// Removes a cluster that is gone for good, by id or by name; by force also with the instances it has.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none, 409 if it is connected or has instances.
    pub async fn remove_cluster(&self, cluster: &str, removal: Removal) -> Result<(), ClientError> {
        let path = ["api", "clusters", non_empty(cluster)?];
        self.execute(remove(&path, format!("remove cluster {cluster}"), removal)).await
    }

    /// Removes a worker that is gone for good from its cluster, both by id or by name; by force also with the instances it
    /// has. Success means that its cluster has stored it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is none, 409 if it is connected or has instances, 503 if the cluster is
    /// not connected, 504 if it does not answer.
    pub async fn remove_worker(
        &self,
        cluster: &str,
        worker: &str,
        removal: Removal,
    ) -> Result<(), ClientError> {
        let path = ["api", "clusters", non_empty(cluster)?, "workers", non_empty(worker)?];
        self.execute(remove(&path, format!("remove worker {worker}"), removal)).await
    }

    /// Makes a one-time join token, valid for `valid_for` (whole seconds, at least one).
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if a worker token names an unknown cluster.
    pub async fn create_token(
        &self,
        role: &TokenRole,
        valid_for: Duration,
    ) -> Result<JoinToken, ClientError> {
        let seconds = valid_for.as_secs().max(1);
        let body = match role {
            TokenRole::Cluster => json!({"role": "cluster", "ttl_seconds": seconds}),
            TokenRole::Worker { cluster: None } => json!({"role": "worker", "ttl_seconds": seconds}),
            TokenRole::Worker { cluster: Some(cluster) } => {
                json!({"role": "worker", "cluster": cluster, "ttl_seconds": seconds})
            }
        };
        self.fetch(Call::new(Method::POST, &["api", "tokens"], "create a join token").body(&body)).await
    }
}

fn remove<'a>(path: &[&'a str], action: String, removal: Removal) -> Call<'a> {
    let call = Call::new(Method::DELETE, path, action);
    match removal {
        Removal::IfUnused => call,
        Removal::Forced => call.query("force", true),
    }
}

/// Refuses an empty identifier, which would address the whole collection.
fn non_empty(id: &str) -> Result<&str, ClientError> {
    if id.is_empty() { Err(ClientError::Id { id: String::new() }) } else { Ok(id) }
}
