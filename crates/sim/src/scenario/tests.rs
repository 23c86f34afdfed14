use super::*;

const SMALL: &str = r#"
duration = "10m"
[[cluster]]
name = "north"
[[cluster.workers]]
count = 2
"#;

fn with(more: &str) -> String {
    format!("{SMALL}{more}")
}

fn refused(text: &str) -> String {
    Scenario::parse(text).expect_err("it makes no sense").to_string()
}

#[test]
fn a_small_scenario_is_read_with_its_defaults() {
    let scenario = Scenario::parse(SMALL).unwrap();
    assert_eq!(scenario.duration_ms, 600_000);
    assert_eq!(scenario.clusters[0].workers[0].capacity().memory_mib, 8 * 1024);
    assert_eq!(scenario.clusters[0].site(), "north");
}

#[test]
fn copies_of_a_workload_are_numbered() {
    let text = with("[[workload]]\nname = \"web\"\ncopies = 3\ninstances = 2\n");
    let names: Vec<_> =
        Scenario::parse(&text).unwrap().workloads.iter().map(|workload| workload.name.to_string()).collect();
    assert_eq!(names, ["web0", "web1", "web2"]);
    let text = with("[[workload]]\nname = \"web\"\ncopies = 0\n");
    assert!(refused(&text).contains("`copies` must be from 1 to 1000"));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_is_allowed() {
    let message = refused(&with("colour = \"red\"\n"));
    assert!(message.contains("line 7"), "{message}");
    assert!(message.contains("unknown field `colour`"), "{message}");
    assert!(message.contains("`count`") && message.contains("`architecture`"), "{message}");
}

#[test]
fn a_key_that_means_nothing_for_this_fault_is_named_with_those_it_knows() {
    let text = with("[[fault]]\nat = \"1m\"\ndo = \"crash\"\ntarget = \"root\"\nloss = 0.5\n");
    let message = refused(&text);
    assert!(message.starts_with("line 7: `loss` means nothing here"), "{message}");
    assert!(message.contains("`at`, `do`, `target`, `for`"), "{message}");
}

#[test]
fn names_that_do_not_exist_are_refused_with_those_that_do() {
    let text = with("[[fault]]\nat = \"1m\"\ndo = \"crash\"\ntarget = \"worker:north-3\"\n");
    let message = refused(&text);
    assert!(message.contains("there is no `north-3`; there are: north-1, north-2"), "{message}");
}

#[test]
fn added_workers_can_be_hit_by_later_faults() {
    let text = with(
        "[[fault]]\nat = \"1m\"\ndo = \"add-workers\"\ncluster = \"north\"\nworkers = { count = 1 }\n\
         [[fault]]\nat = \"2m\"\ndo = \"crash\"\ntarget = \"worker:north-3\"\n",
    );
    assert_eq!(Scenario::parse(&text).unwrap().faults.len(), 2);
}

#[test]
fn amounts_that_cannot_be_meant_are_refused() {
    for (line, part) in [
        ("memory = \"8 apples\"", "no amount"),
        ("memory = -3", "no number of MiB"),
        ("cpu = -1.0", "number of cores"),
        ("count = 7000", "missing"),
    ] {
        let text = SMALL.replace("count = 2", &format!("count = 2\n{line}"));
        let message = refused(&text);
        assert!(message.contains(part) || message.contains("duplicate key"), "{line}: {message}");
    }
    assert!(refused("duration = \"ten minutes\"").contains("no length of time"));
    assert!(refused(&SMALL.replace("count = 2", "count = 7000")).contains("6144 workers"));
}

#[test]
fn a_run_that_cannot_settle_before_its_end_is_refused() {
    let text = with("[random]\nevery = \"1s\"\n[expect]\nsettle-within = \"5m\"\n");
    assert!(refused(&text).contains("`settle-within` needs 5m of quiet"), "{}", refused(&text));
}

#[test]
fn lengths_of_time_are_read_and_written() {
    for (text, ms) in [("250ms", 250), ("1h30m", 5_400_000), ("2d", 172_800_000), ("90s", 90_000)] {
        assert_eq!(Span::try_from(text.to_owned()).map(|span| span.ms), Ok(ms), "{text}");
    }
    assert_eq!(Span::of_ms(90_000).to_string(), "1m30s");
    for text in ["", "10", "s", "10 apples", "-3s", "99999999999999999999s", "4000000d"] {
        assert!(Span::try_from(text.to_owned()).is_err(), "{text}");
    }
}
