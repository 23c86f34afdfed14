//! `oak secret`, `oak registry`: values that services and pulls need. They are read from standard input or a file, never
//! from the command line, which other users of the machine can see.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use oak_client::{Client, Secret};
use oak_model::confidential::MAX_CONFIDENTIAL_BYTES;

use super::{Failure, hidden};
use crate::output::{Cell, Output, Table, Tone};

/// Most bytes read: one more than allowed, so that too many are noticed; a typed value ends with a line end besides.
const LIMIT: u64 = MAX_CONFIDENTIAL_BYTES as u64 + 2;

/// What to do with secrets.
#[derive(Args, Clone, Debug)]
pub(crate) struct SecretArguments {
    #[command(subcommand)]
    action: SecretAction,
}

#[derive(Subcommand, Clone, Debug)]
enum SecretAction {
    /// Store or replace a secret; its value comes from standard input
    Set {
        /// Its name, as descriptors use it
        name: String,
        /// Take the value from this file instead
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
    },
    /// List names, versions and dates
    Ls,
    /// Remove a secret that no service uses
    Rm {
        /// Its name
        name: String,
    },
}

/// What to do with registries.
#[derive(Args, Clone, Debug)]
pub(crate) struct RegistryArguments {
    #[command(subcommand)]
    action: RegistryAction,
}

#[derive(Subcommand, Clone, Debug)]
enum RegistryAction {
    /// Store or replace the credentials of a registry; the password comes from standard input
    Login {
        /// Host as images name it, such as registry.example:5000
        host: String,
        /// User name
        #[arg(short, long, value_name = "NAME")]
        username: String,
    },
    /// List registries and user names
    Ls,
    /// Remove the credentials of a registry
    Rm {
        /// Its host
        host: String,
    },
}

impl SecretArguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match self.action {
            SecretAction::Set { name, from_file } => {
                let value = match from_file {
                    Some(path) => read(File::open(path)?)?,
                    None => read_input(output, "value").await?,
                };
                client.put_secret(&name, &BASE64.encode(value)).await?;
                output.say(format_args!("secret {name} is stored"))?;
            }
            SecretAction::Ls => list(&client.secrets().await?, "NAME", output)?,
            SecretAction::Rm { name } => client.delete_secret(&name).await?,
        }
        Ok(())
    }
}

impl RegistryArguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match self.action {
            RegistryAction::Login { host, username } => {
                let password = String::from_utf8(read_input(output, "password").await?);
                let password = password.map_err(|_| Failure::usage("the password is not UTF-8"))?;
                let password = password.strip_suffix('\n').unwrap_or(&password);
                client.put_registry(&host, &username, password).await?;
                output.say(format_args!("the credentials of {host} are stored"))?;
            }
            RegistryAction::Ls => list(&client.registries().await?, "REGISTRY", output)?,
            RegistryAction::Rm { host } => client.delete_registry(&host).await?,
        }
        Ok(())
    }
}

/// Reads standard input to its end. What is typed is not shown, and ends with a line end that nobody means.
async fn read_input(output: &mut Output<'_>, what: &str) -> Result<Vec<u8>, Failure> {
    if !io::stdin().is_terminal() {
        return read(io::stdin());
    }
    output.say(format_args!("type the {what}, which is not shown, then Enter and Ctrl-D"))?;
    let terminal = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut value = hidden::read(terminal, LIMIT).await?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    check(value)
}

fn read(source: impl Read) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    source.take(LIMIT).read_to_end(&mut value)?;
    check(value)
}

fn check(value: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if value.is_empty() || value.len() > MAX_CONFIDENTIAL_BYTES {
        return Err(Failure::usage(format!("a value must have 1 to {MAX_CONFIDENTIAL_BYTES} bytes")));
    }
    Ok(value)
}

fn list(secrets: &[Secret], title: &'static str, output: &mut Output<'_>) -> io::Result<()> {
    let mut table = Table::new(&[title, "USER", "VERSION", "CHANGED", "STATE"]);
    for secret in secrets {
        let state = if secret.missing {
            format!("missing, needed by {}", secret.used_by.join(", "))
        } else {
            "stored".to_owned()
        };
        table.row(vec![
            plain(&secret.name),
            plain(secret.username.as_deref().unwrap_or("-")),
            plain(secret.version.map_or_else(|| "-".to_owned(), |version| version.to_string())),
            plain(secret.changed.as_deref().unwrap_or("-")),
            plain(state),
        ]);
    }
    output.table(&table)
}

fn plain(text: impl ToString) -> Cell {
    Cell::toned(text, Tone::Plain)
}
