//! Mails to users. One at a time, from a bounded queue: whoever asks for one does not wait for the mail server, and
//! cannot tell from the time whether there was anything to send.

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use oak_model::chain;
use oak_store::{Engine, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::accounts::{Accounts, ResetToken};

/// Mails that wait.
const QUEUE: usize = 64;
/// How long the mail server may take for one step.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS from the first byte, usually port 465.
    Tls,
    /// TLS after `STARTTLS`, usually port 587. A server that does not offer it gets no mail.
    StartTls,
    /// None, usually port 25: for a mail server on this machine.
    None,
}

/// How mails are sent.
#[derive(Clone)]
pub struct MailConfig {
    /// Name or address of the mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// See [`MailSecurity`].
    pub security: MailSecurity,
    /// Name and password for the server, if it wants them.
    pub credentials: Option<(String, String)>,
    /// Sender, such as `Oakestra <oakestra@example.org>`.
    pub sender: String,
    /// Address under which users reach the page, without a slash at the end: links begin with it.
    pub public_url: String,
}

impl std::fmt::Debug for MailConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Mails cannot be sent with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The sender is not an address.
    #[error("`mail.sender` is not a mail address, such as `Oakestra <oakestra@example.org>`")]
    Sender(#[source] lettre::address::AddressError),
    /// TLS cannot be set up for this name.
    #[error("cannot prepare TLS for the mail server {0}")]
    Tls(String, #[source] lettre::transport::smtp::Error),
}

/// Too many mails wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// Takes mails to be sent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailer(mpsc::Sender<String>);

impl Mailer {
    /// Begins to send in `tasks`.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn start(
        tasks: &mut JoinSet<Result<(), StoreError>>,
        config: MailConfig,
        accounts: Engine<Accounts>,
    ) -> Result<Self, MailError> {
        let sender: Mailbox = config.sender.parse().map_err(MailError::Sender)?;
        let transport = transport(&config)?;
        let (queue, mut names) = mpsc::channel::<String>(QUEUE);
        tasks.spawn(async move {
            while let Some(name) = names.recv().await {
                match send_reset(&accounts, &transport, &sender, &config.public_url, &name).await {
                    Ok(true) => info!(user = name, "a link for a new password was sent"),
                    Ok(false) => info!(user = name, "no link for a new password was sent: no such user, no mail address, or one was sent a moment ago"),
                    Err(error) => {
                        warn!(user = name, error = %chain(&*error), "a link for a new password was not sent");
                    }
                }
            }
            std::future::pending().await
        });
        Ok(Self(queue))
    }

    /// Sends a user a link for a new password, soon.
    pub(crate) fn send_reset(&self, name: &str) -> Result<(), QueueFull> {
        self.0.try_send(name.to_owned()).map_err(|_| QueueFull)
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn transport(config: &MailConfig) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    type Smtp = AsyncSmtpTransport<Tokio1Executor>;
    let failed = |error| MailError::Tls(config.host.clone(), error);
    let builder = match config.security {
        MailSecurity::Tls => Smtp::relay(&config.host).map_err(failed)?,
        MailSecurity::StartTls => Smtp::starttls_relay(&config.host).map_err(failed)?,
        MailSecurity::None => Smtp::builder_dangerous(&config.host),
    };
    let builder = builder.port(config.port).timeout(Some(PATIENCE));
    Ok(match &config.credentials {
        Some((user, password)) => {
            builder.credentials(Credentials::new(user.clone(), password.clone())).build()
        }
        None => builder.build(),
    })
}

async fn send_reset(
    accounts: &Engine<Accounts>,
    transport: &AsyncSmtpTransport<Tokio1Executor>,
    sender: &Mailbox,
    public_url: &str,
    name: &str,
) -> Result<bool, AnyError> {
    let token = ResetToken::generate().ok_or("the system gives no randomness")?;
    let link = format!("{public_url}/resetPassword/{}", token.expose());
    let wanted = name.to_owned();
    let address = accounts.call(move |accounts, now, _| accounts.begin_reset(now, &wanted, &token)).await?;
    let Some(address) = address else { return Ok(false) };
    let text = format!(
        "Hello {name},\r\n\r\nsomebody asked for a new password for your account. To choose one, open this link within \
         three hours:\r\n\r\n{link}\r\n\r\nThe link works once. If it was not you, there is nothing to do: the old \
         password stays.\r\n"
    );
    let message = Message::builder()
        .from(sender.clone())
        .to(Mailbox::new(None, address.parse()?))
        .subject("Oakestra-Project | Please reset your password")
        .header(ContentType::TEXT_PLAIN)
        .body(text)?;
    transport.send(message).await?;
    Ok(true)
}
