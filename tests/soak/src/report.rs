//! The result of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::memory::Memory;
use crate::observer::Looks;
use crate::role::Role;
use crate::settings::Settings;

/// How often a kind of operation ended in which way.
pub(crate) type Answers = BTreeMap<(&'static str, &'static str), u64>;

/// What is counted during a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) settings: Settings,
    pub(crate) took: Duration,
    pub(crate) rounds: u64,
    pub(crate) answers: Answers,
    /// Of each round: from the end of the last fault until everything was as it shall be.
    pub(crate) converged: Vec<Duration>,
    pub(crate) looks: Looks,
    pub(crate) memory: Memory,
    faults: BTreeMap<&'static str, u64>,
    ended: BTreeMap<Role, u64>,
    /// What was wrong; `None` after a good run.
    pub(crate) violation: Option<String>,
}

impl Report {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            took: Duration::ZERO,
            rounds: 0,
            answers: Answers::new(),
            converged: Vec::new(),
            looks: Looks::default(),
            memory: Memory::default(),
            faults: BTreeMap::new(),
            ended: BTreeMap::new(),
            violation: None,
        }
    }

    pub(crate) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_insert(0) += 1;
    }

    pub(crate) fn ended_by_itself(&mut self, role: Role) {
        *self.ended.entry(role).or_insert(0) += 1;
    }

    /// Median and longest time to converge.
    fn convergence(&self) -> (f64, f64) {
        let mut all = self.converged.clone();
        all.sort();
        let seconds = |duration: Option<&Duration>| duration.map_or(0.0, Duration::as_secs_f64);
        (seconds(all.get(all.len() / 2)), seconds(all.last()))
    }

    fn of_answers(&self, word: &str) -> u64 {
        self.answers.iter().filter(|((_, answer), _)| *answer == word).map(|(_, count)| count).sum()
    }

    pub(crate) fn to_json(&self) -> Value {
        let (median, longest) = self.convergence();
        let answers = self.answers.iter().map(
            |((operation, word), count)| json!({ "operation": operation, "answer": word, "count": count }),
        );
        let memory = self.memory.roles().iter().map(|(role, it)| {
            json!({
                "role": role.to_string(), "first_kib": it.first_kib, "most_kib": it.most_kib,
                "last_kib": it.last_kib, "first_files": it.first_files, "last_files": it.last_files,
            })
        });
        json!({
            "passed": self.violation.is_none(),
            "violation": self.violation,
            "seed": self.settings.seed,
            "minutes": self.settings.length.as_secs() / 60,
            "took_seconds": self.took.as_secs(),
            "rounds": self.rounds,
            "faults": self.faults,
            "operations": answers.collect::<Vec<_>>(),
            "ended_by_themselves": self.ended.iter()
                .map(|(role, count)| (role.to_string(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
            "converged_seconds": { "median": median, "longest": longest },
            "observer": {
                "looks": self.looks.count,
                "longest_pause_ms": self.looks.longest_pause.as_millis() as u64,
                "pauses_over_100_ms": self.looks.long_pauses,
                "most_containers": self.looks.most_containers,
                "looks_with_permitted_doubles": self.looks.permitted_doubles,
            },
            "memory": memory.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).map_or_else(|error| error.to_string(), |()| text)
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let verdict = if self.violation.is_none() { "passed" } else { "FAILED" };
        writeln!(text, "soak {verdict}: {} s, seed {}", self.took.as_secs(), self.settings.seed)?;
        let faults: u64 = self.faults.values().sum();
        writeln!(text, "  {} rounds with {faults} faults: {:?}", self.rounds, self.faults)?;
        writeln!(
            text,
            "  {} operations acknowledged, {} without answer, {} reached nobody",
            self.of_answers("acknowledged"),
            self.of_answers("without answer"),
            self.of_answers("not sent")
        )?;
        let (median, longest) = self.convergence();
        writeln!(text, "  all as it shall be after a round: median {median:.1} s, longest {longest:.1} s")?;
        let looks = &self.looks;
        writeln!(
            text,
            "  {} looks at the process table, longest pause {} ms, {} over 100 ms; at most {} containers",
            looks.count,
            looks.longest_pause.as_millis(),
            looks.long_pauses,
            looks.most_containers
        )?;
        if !self.ended.is_empty() {
            writeln!(text, "  roles that ended by themselves: {:?}", self.ended)?;
        }
        for (role, it) in self.memory.roles() {
            writeln!(
                text,
                "  {role}: {} KiB at first, {} at most, {} at the end; {} and {} open files",
                it.first_kib, it.most_kib, it.last_kib, it.first_files, it.last_files
            )?;
        }
        self.violation.iter().try_for_each(|violation| writeln!(text, "  violated: {violation}"))
    }
}
