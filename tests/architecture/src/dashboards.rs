//! The dashboard and the alerts ask for metrics that exist: each name and each label in an expression is one that docs/metrics.md
//! has, which other tests compare with the code.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::repository;

const DASHBOARD: &str = "k8s/grafana/countersign.json";
const RULES: &str = "k8s/prometheus/countersign-rules.yaml";

/// What whoever scrapes adds.
const OF_SCRAPES: [&str; 2] = ["instance", "job"];

/// The words of the language that the expressions are made of, beside names and labels.
const WORDS: [&str; 14] = [
    "and",
    "by",
    "count",
    "histogram_quantile",
    "increase",
    "label_values",
    "max",
    "min",
    "or",
    "rate",
    "scalar",
    "sum",
    "time",
    "vector",
];

type Series = BTreeMap<String, BTreeSet<String>>;

/// The series that processes show, each with its labels.
fn series() -> Series {
    let mut series = Series::new();
    let mut add = |name: String, labels: &BTreeSet<String>| {
        series.entry(name).or_default().extend(labels.iter().cloned());
    };
    for row in repository::text("docs/metrics.md").lines() {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = cells.as_slice() else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else {
            continue;
        };
        let labels = labels.split('`').skip(1).step_by(2).chain(OF_SCRAPES);
        let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
        if *kind == "histogram" {
            let buckets = labels.iter().cloned().chain(["le".to_owned()]).collect();
            add(format!("{name}_bucket"), &buckets);
            add(format!("{name}_sum"), &labels);
            add(format!("{name}_count"), &labels);
        } else {
            add(name.to_owned(), &labels);
        }
    }
    assert!(series.len() > 80, "{} series in docs/metrics.md", series.len());
    series
}

/// A piece of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Word(String),
    Text,
    Sign(char),
}

/// Takes an expression apart. Numbers, durations, variables of Grafana's and blanks are left out.
fn pieces(expression: &str) -> Vec<Piece> {
    let is_word = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | ':');
    let mut pieces = Vec::new();
    let mut letters = expression.chars().peekable();
    while let Some(first) = letters.next() {
        if first == '"' {
            assert!(
                letters.any(|letter| letter == '"'),
                "no end of text: {expression}"
            );
            pieces.push(Piece::Text);
        } else if is_word(&first) || first == '$' {
            let mut word = String::from(first);
            while let Some(letter) = letters.next_if(is_word) {
                word.push(letter);
            }
            if !first.is_ascii_digit() && first != '$' {
                pieces.push(Piece::Word(word));
            }
        } else if !first.is_whitespace() {
            pieces.push(Piece::Sign(first));
        }
    }
    pieces
}

/// What stands in a pair of brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    /// `name{...}`.
    Matchers,
    /// `by (...)`, and the arguments of `label_values`.
    Labels,
    /// `[...]`.
    Range,
    /// Anything else.
    Group,
}

impl Inside {
    const fn end(self) -> char {
        match self {
            Self::Matchers => '}',
            Self::Range => ']',
            Self::Labels | Self::Group => ')',
        }
    }
}

/// What is wrong with `expression`.
fn complaints(expression: &str, series: &Series) -> Vec<String> {
    let pieces = pieces(expression);
    let names = pieces.iter().filter_map(|piece| match piece {
        Piece::Word(word) => series.get(word),
        Piece::Text | Piece::Sign(_) => None,
    });
    let labels: BTreeSet<&String> = names.flatten().collect();
    let (mut complaints, mut open, mut last) = (Vec::new(), Vec::new(), "");
    let mut name = None;
    for piece in &pieces {
        match piece {
            Piece::Text => {}
            Piece::Sign('{') => open.push(Inside::Matchers),
            Piece::Sign('[') => open.push(Inside::Range),
            Piece::Sign('(') if matches!(last, "by" | "label_values") => open.push(Inside::Labels),
            Piece::Sign('(') => open.push(Inside::Group),
            Piece::Sign(sign @ (')' | ']' | '}')) => {
                if open.pop().is_none_or(|inside| inside.end() != *sign) {
                    complaints.push(format!("`{sign}` closes nothing"));
                }
            }
            Piece::Sign(_) => {}
            Piece::Word(word) if open.last() == Some(&Inside::Matchers) => {
                let known = name.and_then(|name: &String| series.get(name));
                if !known.is_some_and(|known| known.contains(word)) {
                    complaints.push(format!("{name:?} has no label `{word}`"));
                }
            }
            Piece::Word(word) if series.contains_key(word) => name = Some(word),
            Piece::Word(word) => {
                let is_known = WORDS.contains(&word.as_str())
                    || (open.last() == Some(&Inside::Labels) && labels.contains(word));
                if !is_known {
                    complaints.push(format!("there is no `{word}`"));
                }
            }
        }
        last = match piece {
            Piece::Word(word) => word,
            Piece::Text | Piece::Sign(_) => "",
        };
    }
    if !open.is_empty() {
        complaints.push("something is not closed".to_owned());
    }
    complaints
}

#[test]
fn what_is_misspelt_is_found() {
    let series = series();
    let good = [
        r#"sum by (decision, reason) (rate(countersign_decisions_total{instance=~"$sidecar"}[$__rate_interval]))"#,
        "histogram_quantile(0.99, sum by (le) (rate(countersign_request_duration_seconds_bucket[5m])))",
        r#"label_values(countersign_build_info{binary="countersign-sidecar"}, instance)"#,
        "time() - countersign_drill_completed_timestamp_seconds > 7776000",
    ];
    for expression in good {
        assert_eq!(complaints(expression, &series), [""; 0], "{expression}");
    }
    let wrong = [
        "sum(rate(countersign_decision_total[5m]))",
        "sum(rate(countersign_decisions[5m]))",
        "countersign_request_duration_seconds",
        r#"countersign_decisions_total{verdict="refused"}"#,
        "sum by (le) (rate(countersign_request_duration_seconds_sum[5m]))",
        "sum by (reasons) (countersign_decisions_total)",
        "sum(rate(countersign_decisions_total[5m])",
        "sum(rate(countersign_decisions_total{[5m}))",
        "summe(countersign_decisions_total)",
    ];
    for expression in wrong {
        assert!(!complaints(expression, &series).is_empty(), "{expression}");
    }
}

/// What is wrong with all of `expressions`, as one text.
fn all_complaints(expressions: &[&str]) -> String {
    let series = series();
    let told = |expression: &str| {
        let complaints = complaints(expression, &series);
        (!complaints.is_empty()).then(|| format!("{expression}\n    {}\n", complaints.join("; ")))
    };
    expressions.iter().copied().filter_map(told).collect()
}

/// The values of the fields of these names, wherever they stand.
fn fields<'v>(value: &'v Value, names: &[&str], found: &mut Vec<&'v str>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match value {
                    Value::String(text) if names.contains(&name.as_str()) => found.push(text),
                    Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
                    Value::Array(_) | Value::Object(_) => fields(value, names, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, names, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&repository::text(DASHBOARD)).expect("the dashboard is JSON")
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard = dashboard();
    let mut asked = Vec::new();
    fields(&dashboard["panels"], &["expr"], &mut asked);
    assert!(asked.len() > 50, "{} expressions", asked.len());
    fields(&dashboard["templating"], &["definition"], &mut asked);
    let wrong = all_complaints(&asked);
    assert!(wrong.is_empty(), "{DASHBOARD}:\n{wrong}");
}

/// Labels in legends are those that are left after summing.
#[test]
fn legends_name_labels_that_are_there() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    for target in targets {
        let (expression, legend) = (target["expr"].as_str(), target["legendFormat"].as_str());
        let (expression, legend) = (expression.expect("an expression"), legend.expect("a legend"));
        let summed = expression
            .split_once("by (")
            .and_then(|(_, rest)| rest.split_once(')'));
        for label in legend
            .split("{{")
            .skip(1)
            .filter_map(|rest| rest.split("}}").next())
        {
            let is_left = summed.map_or(label == "instance", |(labels, _)| {
                labels.split(", ").any(|left| left == label)
            });
            assert!(is_left, "`{legend}` of `{expression}`");
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let dashboard = dashboard();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{title}");
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| place[key].as_u64().expect("a number"));
        for square in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(
                square.0 < 24 && places.insert(square),
                "{title} lies over another"
            );
        }
        if panel["type"] == "row" {
            continue;
        }
        let says = panel["description"]
            .as_str()
            .is_some_and(|text| text.ends_with('.'));
        let has_unit = panel["fieldConfig"]["defaults"]["unit"].is_string();
        assert!(says && has_unit, "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

#[test]
fn the_alerts_ask_for_metrics_that_exist() {
    let rules = repository::text(RULES);
    let after = |key: &'static str| {
        let lines = rules
            .lines()
            .map(|line| line.trim_start().trim_start_matches("- "));
        lines
            .filter_map(move |line| line.strip_prefix(key))
            .collect::<Vec<_>>()
    };
    let (alerts, expressions) = (after("alert: "), after("expr: "));
    assert!(alerts.len() > 15, "{alerts:?}");
    assert_eq!(
        alerts.len(),
        expressions.len(),
        "each alert has an expression in one line"
    );
    let names: BTreeSet<&&str> = alerts.iter().collect();
    assert_eq!(names.len(), alerts.len(), "each has a name of its own");
    let wrong = all_complaints(&expressions);
    assert!(wrong.is_empty(), "{RULES}:\n{wrong}");
}
