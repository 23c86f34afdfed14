//! From what a user types to the object that is meant: an id, a name, or a name with its namespace.

use oak_client::{Application, Client, Instance, Service};

use super::Failure;

/// The application called `text`: its id, `name` or `name.namespace`.
pub(super) async fn application(client: &Client, text: &str) -> Result<Application, Failure> {
    let matches = |application: &Application| {
        let Application { id, name, namespace, .. } = application;
        id == text || name == text || text == format!("{name}.{namespace}")
    };
    let found = client.applications().await?.into_iter().filter(matches).collect();
    only(
        found,
        "application",
        text,
        |application| format!("{}.{}", application.name, application.namespace),
        |a| &a.id,
    )
}

/// The service called `text`: its id, `name`, `name.namespace` or `application.namespace.name.namespace`.
pub(super) async fn service(client: &Client, text: &str) -> Result<Service, Failure> {
    let matches = |service: &Service| {
        let Service { id, name, namespace, job_name, .. } = service;
        id == text || name == text || job_name == text || text == format!("{name}.{namespace}")
    };
    let found = client.services().await?.into_iter().filter(matches).collect();
    only(found, "service", text, |service| service.job_name.clone(), |service| &service.id)
}

/// The instance called `text` (`SERVICE/N`); without a number the only one of the service.
pub(super) async fn instance(client: &Client, text: &str) -> Result<(Service, Instance), Failure> {
    let (name, number) = split_number(text)?;
    let service = service(client, name).await?;
    let instances = &service.instances;
    let found = match (number, instances.as_slice()) {
        (Some(number), _) => instances.iter().find(|instance| instance.number == number).cloned(),
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    };
    if let Some(instance) = found {
        return Ok((service, instance));
    }
    let numbers: Vec<String> =
        instances.iter().map(|instance| format!("{name}/{}", instance.number)).collect();
    Err(match (number, numbers.is_empty()) {
        (_, true) => Failure::not_found(format!("service {name} has no instances"))
            .hint(format!("`oak get services {name}` says how it is doing")),
        (Some(number), false) => Failure::not_found(format!("service {name} has no instance {number}"))
            .hint(format!("there are {}", numbers.join(", "))),
        (None, false) => Failure::usage(format!("service {name} has {} instances", numbers.len()))
            .hint(format!("name one of {}", numbers.join(", "))),
    })
}

/// Splits `SERVICE/N`; the number may be missing.
pub(super) fn split_number(text: &str) -> Result<(&str, Option<u32>), Failure> {
    let Some((name, number)) = text.rsplit_once('/') else { return Ok((text, None)) };
    let number = number.parse().map_err(|_| {
        Failure::usage(format!("`{text}` does not name an instance"))
            .hint("write SERVICE/NUMBER, such as nginx/0")
    })?;
    Ok((name, Some(number)))
}

fn only<T>(
    mut found: Vec<T>,
    kind: &str,
    text: &str,
    name: impl Fn(&T) -> String,
    id: impl Fn(&T) -> &str,
) -> Result<T, Failure> {
    if found.len() > 1 {
        let mut failure = Failure::usage(format!("{} {kind}s are called {text}", found.len()));
        for one in &found {
            failure = failure.cause(format!("{}  {}", id(one), name(one)));
        }
        return Err(failure.hint("use one of the ids"));
    }
    let none = || {
        Failure::not_found(format!("there is no {kind} {text}")).hint(format!("`oak get {kind}s` lists them"))
    };
    found.pop().ok_or_else(none)
}
