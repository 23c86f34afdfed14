//! `oak sim`: a whole system under virtual time, with everything that can go wrong. Speaks to nobody.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use oak_sim::{Report, Scenario, Sum};

use super::{EXIT_FAILURE, EXIT_USAGE, Failure};
use crate::output::{Format, Output};

/// Which scenario, and what to do with it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The scenario, a TOML file
    #[arg(value_name = "FILE")]
    scenario: PathBuf,
    /// Seed of everything that is random; the scenario's own if not given
    #[arg(long, value_name = "NUMBER", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run once for each of these seeds, on all processors; the end is not included
    #[arg(long, value_name = "FROM..TO", value_parser = parse_seeds)]
    seeds: Option<Range<u64>>,
    /// Write the whole report there as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    report: Option<PathBuf>,
    /// Write every event there
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    trace: Option<PathBuf>,
    /// Form of what is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let seeds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    seeds.filter(|seeds| seeds.start < seeds.end).ok_or_else(|| "write it like 0..1000".to_owned())
}

impl Arguments {
    /// Simulates; false if a rule was broken or an expectation not met.
    pub(crate) fn run(self, output: &mut Output<'_>) -> Result<bool, Failure> {
        let name = self.scenario.display();
        let text = std::fs::read_to_string(&self.scenario).map_err(|error| {
            Failure::new(EXIT_FAILURE, format!("cannot read {name}")).cause(error.to_string())
        })?;
        let scenario = Scenario::parse(&text).map_err(|error| {
            Failure::new(EXIT_USAGE, format!("{name}: {error}")).hint("see docs/simulator.md")
        })?;
        match &self.seeds {
            Some(seeds) => self.run_many(&scenario, seeds.clone(), output),
            None => self.run_one(&scenario, output),
        }
    }

    fn run_one(&self, scenario: &Scenario, output: &mut Output<'_>) -> Result<bool, Failure> {
        let trace = self.trace.as_deref().map(create).transpose()?;
        let seed = self.seed.unwrap_or(scenario.seed);
        let start = Instant::now();
        let outcome = oak_sim::run(scenario, seed, trace);
        let seconds = start.elapsed().as_secs_f64();
        if let (Some(error), Some(path)) = (outcome.trace_error, &self.trace) {
            return Err(cannot_write(path, &error));
        }
        let report = outcome.report;
        if let Some(path) = &self.report {
            let mut file = create(path)?;
            let written = serde_json::to_writer_pretty(&mut file, &report).map_err(io::Error::from);
            written.and_then(|()| file.flush()).map_err(|error| cannot_write(path, &error))?;
        }
        match self.output {
            Format::Json => {
                let json = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
                output.line(json)?;
            }
            Format::Table => write!(output.data, "{report}")?,
        }
        output.say(format_args!("{seconds:.1} s of real time"))?;
        if !report.is_good() {
            output.say(format_args!("replay with: {}", self.replay(&report)))?;
        }
        Ok(report.is_good())
    }

    fn replay(&self, report: &Report) -> String {
        format!("oak sim {} --seed {} --trace trace.txt", self.scenario.display(), report.seed)
    }

    fn run_many(
        &self,
        scenario: &Scenario,
        seeds: Range<u64>,
        output: &mut Output<'_>,
    ) -> Result<bool, Failure> {
        let all = seeds.end - seeds.start;
        let start = Instant::now();
        let mut shown = 0;
        let mut progress = |done: u64| {
            let tenth = done * 10 / all;
            if shown < tenth {
                shown = tenth;
                // A closed terminal must not end the simulation.
                let _ =
                    writeln!(output.talk, "{done} of {all} seeds, {:.0} s", start.elapsed().as_secs_f64());
            }
        };
        let sum = oak_sim::run_seeds(scenario, seeds.start, seeds.end, &mut progress);
        let seconds = start.elapsed().as_secs_f64();
        self.write_sum(scenario, &sum, seconds, output)?;
        Ok(sum.failed.is_empty())
    }

    fn write_sum(
        &self,
        scenario: &Scenario,
        sum: &Sum,
        seconds: f64,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        if self.output == Format::Json {
            let failed =
                sum.failed.iter().map(|(seed, what)| serde_json::json!({"seed": seed, "what": what}));
            let json = serde_json::json!({
                "title": scenario.title,
                "runs": sum.runs,
                "events": sum.events,
                "virtual_ms": sum.virtual_ms,
                "seconds": seconds,
                "failed": failed.collect::<Vec<_>>(),
            });
            output.line(serde_json::to_string_pretty(&json).map_err(io::Error::from)?)?;
            return Ok(());
        }
        let hours = sum.virtual_ms / 3_600_000;
        let rate = sum.events as f64 / seconds.max(0.001);
        output.line(format_args!("{}", scenario.title))?;
        output.line(format_args!(
            "{} seeds, {hours} h of virtual time, {} events in {seconds:.1} s ({rate:.0} a second)",
            sum.runs, sum.events
        ))?;
        if sum.failed.is_empty() {
            output.line("No rule was broken, every expectation was met.")?;
            return Ok(());
        }
        output.line(format_args!("{} seeds failed:", sum.failed.len()))?;
        for (seed, what) in &sum.failed {
            output.line(format_args!("  {seed}: {what}"))?;
        }
        if let Some((seed, _)) = sum.failed.first() {
            let scenario = self.scenario.display();
            output.say(format_args!("replay with: oak sim {scenario} --seed {seed} --trace trace.txt"))?;
        }
        Ok(())
    }
}

fn create(path: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
    Ok(Box::new(BufWriter::new(file)))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(EXIT_FAILURE, format!("cannot write {}", path.display())).cause(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    const SMALL: &str = r#"
        title = "Two machines"
        duration = "5m"
        [[cluster]]
        name = "north"
        [[cluster.workers]]
        count = 2
        [[workload]]
        name = "camera"
        instances = 3
        [[fault]]
        at = "1m"
        do = "power-loss"
        target = "worker:north-1"
        for = "1m"
        [expect]
        recover-within = "20s"
    "#;

    struct Ran {
        result: Result<bool, Failure>,
        data: String,
        talk: String,
    }

    /// Runs the command on a scenario in a directory of its own; `change` sets further arguments.
    fn simulate(text: &str, change: impl FnOnce(&mut Arguments, &Path)) -> Ran {
        let directory = tempfile::tempdir().expect("a directory");
        let scenario = directory.path().join("scenario.toml");
        std::fs::write(&scenario, text).expect("written");
        let mut arguments =
            Arguments { scenario, seed: None, seeds: None, report: None, trace: None, output: Format::Table };
        change(&mut arguments, directory.path());
        let (mut data, mut talk) = (Vec::new(), Vec::new());
        let style = Style { colour: false, width: None };
        let result = arguments.run(&mut Output { data: &mut data, talk: &mut talk, style });
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ran { result, data: text(data), talk: text(talk) }
    }

    #[test]
    fn a_good_run_prints_its_report_and_writes_report_and_trace() {
        let ran = simulate(SMALL, |arguments, directory| {
            arguments.report = Some(directory.join("report.json"));
            arguments.trace = Some(directory.join("trace.txt"));
            // Looked at before the directory goes.
            let seen = arguments.clone().run(&mut Output {
                data: &mut io::sink(),
                talk: &mut io::sink(),
                style: Style { colour: false, width: None },
            });
            assert!(seen.expect("it runs"));
            let report = std::fs::read_to_string(directory.join("report.json")).expect("a report");
            let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
            assert_eq!(report["unmet"], serde_json::json!([]));
            let trace = std::fs::read_to_string(directory.join("trace.txt")).expect("a trace");
            assert!(trace.contains("worker north-1 loses power"), "{trace}");
        });
        assert!(ran.result.expect("it runs"), "{}", ran.data);
        assert!(ran.data.contains("Two machines") && ran.data.contains("all run again"), "{}", ran.data);
    }

    #[test]
    fn an_expectation_that_is_not_met_ends_with_false_and_the_command_to_replay_it() {
        let text = SMALL.replace("recover-within = \"20s\"", "recover-within = \"2s\"");
        let ran = simulate(&text, |arguments, _| arguments.seed = Some(7));
        assert!(!ran.result.expect("it runs"));
        assert!(ran.data.contains("NOT MET: recover-within = \"2s\""), "{}", ran.data);
        assert!(ran.talk.contains("scenario.toml --seed 7 --trace trace.txt"), "{}", ran.talk);
    }

    #[test]
    fn many_seeds_are_summed_up_and_the_bad_ones_named() {
        let ran = simulate(SMALL, |arguments, _| arguments.seeds = Some(0..4));
        assert!(ran.result.expect("it runs"), "{}", ran.data);
        assert!(ran.data.contains("4 seeds"), "{}", ran.data);
        let text = SMALL.replace("recover-within = \"20s\"", "recover-within = \"2s\"");
        let ran = simulate(&text, |arguments, _| {
            arguments.seeds = Some(0..2);
            arguments.output = Format::Json;
        });
        assert!(!ran.result.expect("it runs"));
        let json: serde_json::Value = serde_json::from_str(&ran.data).expect("JSON");
        assert_eq!(json["failed"].as_array().map(Vec::len), Some(2), "{json}");
    }

    #[test]
    fn a_scenario_that_makes_no_sense_is_a_usage_error_with_its_line() {
        let ran = simulate(&SMALL.replace("instances = 3", "instance = 3"), |_, _| {});
        let failure = ran.result.expect_err("it cannot be read");
        let mut text = Vec::new();
        failure.write(&mut text).expect("written");
        let text = String::from_utf8(text).expect("text");
        assert_eq!(failure.code(), EXIT_USAGE);
        assert!(text.contains("unknown field `instance`") && text.contains("line 10"), "{text}");
    }

    #[test]
    fn ranges_of_seeds_are_checked() {
        assert_eq!(parse_seeds("3..10"), Ok(3..10));
        for text in ["10", "10..3", "a..b", "3..3", ""] {
            assert!(parse_seeds(text).is_err(), "{text}");
        }
    }
}
