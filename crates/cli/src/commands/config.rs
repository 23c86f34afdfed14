//! `oak config`: what the configuration is and where each value came from.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{EXIT_USAGE, Failure};
use crate::config::{ConfigErrors, Loaded};
use crate::output::{Format, Output, Table};

/// What to do with the configuration.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Print every setting, its value and where the value comes from
    Show {
        /// Form of the listing
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

#[derive(Serialize)]
struct Shown {
    setting: &'static str,
    value: String,
    origin: String,
    variable: String,
    meaning: &'static str,
}

impl Arguments {
    /// Prints the configuration that was loaded. Speaks to nobody.
    pub(crate) fn run(self, loaded: &Loaded, output: &mut Output<'_>) -> Result<(), Failure> {
        let Action::Show { output: format } = self.action;
        let settings = loaded.shown().map(|(setting, value, origin)| Shown {
            setting: setting.path,
            value,
            origin: origin.to_string(),
            variable: setting.variable(),
            meaning: setting.meaning,
        });
        if format == Format::Json {
            return Ok(output.json(&settings.collect::<Vec<_>>())?);
        }
        let mut table = Table::new(&["SETTING", "VALUE", "ORIGIN", "MEANING"]);
        for shown in settings {
            table.row([shown.setting.into(), shown.value.into(), shown.origin.into(), shown.meaning.into()]);
        }
        output.table(&table)?;
        for note in loaded.notes() {
            writeln!(output.talk, "note: {note}")?;
        }
        Ok(())
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        let mut failure = Self::new(EXIT_USAGE, errors.to_string());
        for problem in errors.problems {
            failure = failure.cause(problem.to_string());
        }
        failure
    }
}
