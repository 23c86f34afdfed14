//! `oak token`: join tokens.

use std::time::Duration;

use clap::{Args, Subcommand};
use oak_client::{Client, TokenRole};

use super::Failure;
use crate::output::Output;

/// What to do with tokens.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Make a one-time token and print it
    Create {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Subcommand, Clone, Debug)]
enum Role {
    /// For a cluster that joins this root
    Cluster {
        #[command(flatten)]
        life: Life,
    },
    /// For a worker that joins a cluster
    Worker {
        /// Name of the cluster; may be left out while there is only one
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        #[command(flatten)]
        life: Life,
    },
}

#[derive(Args, Clone, Copy, Debug)]
struct Life {
    /// How long the token can be used, such as 30m, 1h or 7d
    #[arg(long, default_value = "1h", value_parser = parse_duration, value_name = "TIME")]
    ttl: Duration,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let Action::Create { role } = self.action;
        let (role, life) = match role {
            Role::Cluster { life } => (TokenRole::Cluster, life),
            Role::Worker { cluster, life } => (TokenRole::Worker { cluster }, life),
        };
        let token = client.create_token(&role, life.ttl).await?;
        output.line(&token.token)?;
        output.say(format_args!("one use, valid for {}", shown(life.ttl)))?;
        Ok(())
    }
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Reads `90s`, `30m`, `1h`, `7d` or a number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = UNITS.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1));
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let seconds = seconds.filter(|seconds| (1..=MAX_LIFE_S).contains(seconds));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "write a time from 1s to 7d, such as 30m, 1h or 7d".to_owned())
}

const MAX_LIFE_S: u64 = 7 * 86_400;

fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    let unit = UNITS.iter().find(|(_, factor)| seconds.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{seconds}s"), |(suffix, factor)| format!("{}{suffix}", seconds / factor))
}

#[cfg(test)]
mod tests {
    use super::{parse_duration, shown};

    #[test]
    fn reads_and_shows_times() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800), ("5", 5)] {
            assert_eq!(parse_duration(text).map(|time| time.as_secs()), Ok(seconds), "{text}");
        }
        for bad in ["", "h", "-1h", "0", "1.5h", "400d", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("3600s").map(shown).as_deref(), Ok("1h"));
        assert_eq!(parse_duration("90s").map(shown).as_deref(), Ok("90s"));
    }
}
