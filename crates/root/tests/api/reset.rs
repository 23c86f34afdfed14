//! Forgotten passwords, with a mail server that the test plays.

use std::time::Duration;

use oak_root::mail::{MailConfig, MailSecurity};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::world::World;

/// Listens and hands over every mail it gets.
async fn mail_server() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mails, received) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            mails.send(receive(stream).await).await.unwrap();
        }
    });
    (port, received)
}

async fn receive(stream: TcpStream) -> String {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    writing.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    let (mut mail, mut in_data) = (String::new(), false);
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match (in_data, line.split(' ').next().unwrap_or_default()) {
            (true, ".") => {
                in_data = false;
                "250 taken"
            }
            (true, _) => {
                mail.push_str(&line);
                mail.push('\n');
                continue;
            }
            (false, "EHLO") => "250 mail.example",
            (false, "DATA") => {
                in_data = true;
                "354 go on"
            }
            (false, "QUIT") => {
                writing.write_all(b"221 bye\r\n").await.unwrap();
                break;
            }
            (false, _) => {
                mail.push_str(&line);
                mail.push('\n');
                "250 ok"
            }
        };
        writing.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        if answer == "250 taken" {
            break;
        }
    }
    mail
}

fn config(port: u16) -> MailConfig {
    MailConfig {
        host: "127.0.0.1".into(),
        port,
        security: MailSecurity::None,
        credentials: None,
        sender: "Oakestra <oakestra@example.org>".into(),
        public_url: "https://oak.example".into(),
    }
}

/// The token in the link of a mail; long lines are folded by `=` at the end.
fn token(mail: &str) -> String {
    let text = mail.replace("=\n", "").replace("=3D", "=");
    let begin = "https://oak.example/resetPassword/";
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no link: {mail}"));
    rest.lines().next().unwrap().trim().to_owned()
}

async fn finish(world: &World, token: &str, password: &str) -> crate::world::Answer {
    let body = json!({ "token": token, "password": password });
    world.call("PUT", "/api/user/").json(&body).send().await
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_through_a_link_that_works_once() {
    let (port, mut mails) = mail_server().await;
    let world = World::with_mail(config(port)).await;
    let before = world.bob().await;
    // The name of the page it came from must not get into the link.
    let body = json!({ "username": "bob", "domain": "evil.example" });
    let answer = world.call("POST", "/api/user/").json(&body).send().await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})));
    let mail = tokio::time::timeout(Duration::from_secs(20), mails.recv()).await.unwrap().unwrap();
    assert!(mail.contains("RCPT TO:<bob@example.org>"), "{mail}");
    assert!(mail.contains("Subject: Oakestra-Project | Please reset your password"), "{mail}");
    assert!(!mail.contains("evil.example"));
    let token = token(&mail);
    assert_eq!(token.len(), 43);
    let invalid = "Link invalid! Please request a new one!";
    assert_eq!(finish(&world, "wrong", "new").await.error(400), invalid);
    finish(&world, &token, "").await.error(422);
    assert_eq!(finish(&world, &token, "new").await.json(), json!({}));
    world.token("bob", "new").await;
    assert_eq!(world.get("/api/user/bob", &before).send().await.error(401), "Token has been revoked");
    assert_eq!(finish(&world, &token, "newer").await.error(400), invalid);
}

#[tokio::test]
async fn who_exists_is_not_told_and_nobody_is_flooded() {
    let (port, mut mails) = mail_server().await;
    let world = World::with_mail(config(port)).await;
    let ask = async |name: &str| {
        let answer = world.call("POST", "/api/user/").json(&json!({ "username": name })).send().await;
        (answer.status.as_u16(), answer.text)
    };
    let unknown = ask("nobody").await;
    assert_eq!(unknown, (200, "{}".to_owned()));
    assert_eq!(ask("bob").await, unknown);
    assert_eq!(ask("bob").await, unknown);
    let first = tokio::time::timeout(Duration::from_secs(20), mails.recv()).await.unwrap().unwrap();
    assert!(first.contains("RCPT TO:<bob@example.org>"));
    // The queue is worked off in order: with this mail all of the above are done.
    assert_eq!(ask("Admin").await, unknown);
    let second = tokio::time::timeout(Duration::from_secs(20), mails.recv()).await.unwrap().unwrap();
    assert!(second.contains("RCPT TO:<Admin@example.org>"), "a second one for bob: {second}");
    let mut status = 200;
    for _ in 0..20 {
        status = ask("nobody").await.0;
    }
    assert_eq!(status, 429);
}

#[tokio::test]
async fn without_a_mail_server_the_setting_is_named() {
    let world = World::start().await;
    let ask = |body: Value| world.call("POST", "/api/user/").json(&body);
    assert!(ask(json!({ "username": "bob", "domain": "x" })).send().await.error(409).contains("`mail.host`"));
    ask(json!({})).send().await.error(422);
}
