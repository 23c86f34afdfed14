//! Layering of the sources, and the record of where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::{ConfigErrors, ConfigProblem};
use super::older;
use super::settings::{Raw, SETTINGS, Setting};
use super::types::Config;

/// The file that is read when none is named; it may be missing.
const DEFAULT_FILE: &str = "/etc/oakestra/oak.toml";
/// Largest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Built in.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A flag that sets a setting.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    /// Setting, such as `root.listen`.
    pub(crate) path: &'static str,
    /// The flag as the user writes it, such as `--listen`.
    pub(crate) flag: &'static str,
    /// Its value.
    pub(crate) value: String,
}

/// Everything a configuration is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// `--config`: this file must exist. Otherwise `OAK_CONFIG`, otherwise `/etc/oakestra/oak.toml` if it exists.
    pub(crate) file: Option<PathBuf>,
    /// Directory with the files of a worker of the original, `/etc`; none are read without it.
    pub(crate) older: Option<PathBuf>,
    /// The environment of the process.
    pub(crate) environment: BTreeMap<String, String>,
    /// Flags.
    pub(crate) flags: Vec<Override>,
}

impl Sources {
    /// The sources of this process.
    pub(crate) fn of_process(file: Option<PathBuf>, flags: Vec<Override>) -> Self {
        // A variable that is not UTF-8 cannot be one of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { file, older: Some(older::directory()), environment: environment.collect(), flags }
    }
}

/// A usable configuration and where its values came from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The values.
    pub(crate) config: Config,
    origins: BTreeMap<&'static str, Origin>,
    notes: Vec<String>,
}

impl Loaded {
    /// What stands in files of the original and has no meaning here, in sentences for people.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every setting with its value as text and its origin, for `oak config show`.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&'static Setting, String, &Origin)> {
        SETTINGS.iter().map(|setting| {
            let origin = self.origins.get(setting.path).unwrap_or(&Origin::Default);
            (setting, (setting.show)(&self.config), origin)
        })
    }
}

/// Puts the sources on top of each other: defaults, files of the original, file, environment, flags.
///
/// # Errors
/// Every problem of every source.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let mut loader = Loader::default();
    loader.read_older(sources);
    loader.read_file(sources);
    loader.read_environment(&sources.environment);
    for flag in &sources.flags {
        match SETTINGS.iter().find(|setting| setting.path == flag.path) {
            Some(setting) => loader.set(setting, Raw::Text(&flag.value), Origin::Flag(flag.flag)),
            None => loader.unknown(flag.path, Origin::Flag(flag.flag)),
        }
    }
    if !loader.problems.is_empty() {
        return Err(ConfigErrors { problems: loader.problems });
    }
    Ok(Loaded { config: loader.config, origins: loader.origins, notes: loader.notes })
}

#[derive(Default)]
struct Loader {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    problems: Vec<ConfigProblem>,
    notes: Vec<String>,
}

impl Loader {
    fn set(&mut self, setting: &'static Setting, raw: Raw<'_>, origin: Origin) {
        match (setting.set)(&mut self.config, raw) {
            Ok(()) => {
                self.origins.insert(setting.path, origin);
            }
            Err(message) => self.problem(setting.path, origin, message),
        }
    }

    fn problem(&mut self, path: impl Into<String>, origin: Origin, message: impl Into<String>) {
        self.problems.push(ConfigProblem { path: path.into(), origin, message: message.into() });
    }

    fn read_older(&mut self, sources: &Sources) {
        let Some(directory) = &sources.older else { return };
        let older = older::read(directory, read_bounded);
        self.problems.extend(older.problems);
        self.notes = older.notes;
        for (path, value, origin) in older.values {
            match SETTINGS.iter().find(|setting| setting.path == path) {
                Some(setting) => self.set(setting, Raw::Text(&value), origin),
                None => self.unknown(path, origin),
            }
        }
    }

    fn read_file(&mut self, sources: &Sources) {
        let named = sources.file.clone().or_else(|| {
            sources.environment.get("OAK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let origin = Origin::File(path.clone());
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return,
            Err(error) => return self.problem("", origin, format!("cannot be read: {error}")),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.read_table("", &table, &origin),
            Err(error) => {
                self.problem("", origin, format!("is not valid TOML: {}", error.to_string().trim_end()));
            }
        }
    }

    fn read_table(&mut self, prefix: &str, table: &toml::Table, origin: &Origin) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.path == path) {
                self.set(setting, Raw::Toml(value), origin.clone());
                continue;
            }
            let is_section = SETTINGS.iter().any(|setting| section(setting.path) == Some(path.as_str()));
            match value {
                toml::Value::Table(inner) if is_section => self.read_table(&path, inner, origin),
                _ if is_section => self.problem(path, origin.clone(), "must be a section"),
                _ => self.unknown(&path, origin.clone()),
            }
        }
    }

    fn read_environment(&mut self, environment: &BTreeMap<String, String>) {
        for setting in SETTINGS {
            let variable = setting.variable();
            let older = setting.older_variable.map(str::to_owned);
            for name in older.into_iter().chain([variable]) {
                // Compose files and unit files set variables to nothing when they mean "not set".
                if let Some(value) = environment.get(&name).filter(|value| !value.is_empty()) {
                    self.set(setting, Raw::Text(value), Origin::Environment(name));
                }
            }
        }
        for name in environment.keys().filter(|name| is_ours(name)) {
            if !SETTINGS.iter().any(|setting| setting.variable() == *name) {
                self.unknown(name, Origin::Environment(name.clone()));
            }
        }
    }

    fn unknown(&mut self, path: &str, origin: Origin) {
        let candidates = SETTINGS.iter().flat_map(|setting| {
            let shown = if path.starts_with("OAK_") { setting.variable() } else { setting.path.to_owned() };
            [Some(shown), section(setting.path).map(str::to_owned)].into_iter().flatten()
        });
        let similarity = |candidate: &str| strsim::jaro_winkler(candidate, path);
        let best = candidates.max_by(|left, right| similarity(left).total_cmp(&similarity(right)));
        let message = match best.filter(|best| similarity(best) > 0.8) {
            Some(best) => format!("is not a setting; did you mean `{best}`?"),
            None => "is not a setting; `oak config show` lists all".to_owned(),
        };
        self.problem(path, origin, message);
    }
}

/// Whether a variable belongs to a section of the configuration (`OAK_SERVER` and the like do not).
fn is_ours(variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix("OAK_") else { return false };
    SETTINGS.iter().filter_map(|setting| section(setting.path)).any(|section| {
        rest.strip_prefix(section.to_uppercase().as_str()).is_some_and(|key| key.starts_with('_'))
    })
}

fn section(path: &str) -> Option<&str> {
    path.split_once('.').map(|(section, _)| section)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let size = file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(size).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}
