//! What the user sees: data on stdout, messages on stderr. The only module that writes to either.
//!
//! Every command gives its data twice: as JSON for programs (`--json`) and as text for people. Colour is for terminals
//! only, and only when the user has nothing against it. What people read is shown with everything [`escaped`] that would not
//! show itself, because names, paths and answers come from elsewhere: only colours and line breaks are ours to make.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::presets;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use countersign_core::text::is_shown;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::settings;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColourChoice {
    // On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    // Always.
    Always,
    // Never.
    Never,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Not as it should be.
    Bad,
    /// In the background.
    Faint,
    /// A heading.
    Strong,
}

/// Text with its meaning.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    text: String,
    tone: Tone,
}

impl Text {
    /// `text` with a meaning.
    #[must_use]
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Renders text for one of the two streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// Without colour.
    pub(crate) const fn plain() -> Self {
        Self { colour: false }
    }

    /// `text` as its tone looks here.
    #[must_use]
    pub(crate) fn text(self, tone: Tone, text: &str) -> String {
        let text = escaped(text);
        let code = match tone {
            Tone::Plain => return text,
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text
        }
    }

    /// Rows under a heading, in columns, without a final line break.
    #[must_use]
    pub(crate) fn table(self, heading: &[&str], rows: Vec<Vec<Text>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(heading.iter().map(|title| cell(title, Tone::Strong)));
        for row in rows {
            table.add_row(row.iter().map(|text| cell(&text.text, text.tone)));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if index == 0 { 0 } else { 1 }, 1));
        }
        table.trim_fmt()
    }
}

/// `text` with what would not show itself as `\u{..}`: a terminal obeys some of it, and other text is turned round by it. Line
/// breaks stay.
#[must_use]
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_shown(character) || character == '\n' {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
}

fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(escaped(text));
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Warning => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Faint => cell.fg(Color::DarkGrey),
        Tone::Strong => cell.add_attribute(comfy_table::Attribute::Bold),
    }
}

/// The two streams and how the user wants them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    out: Paint,
    err: Paint,
}

impl Output {
    /// For this process's stdout and stderr.
    #[must_use]
    pub(crate) fn new(json: bool, choice: ColourChoice) -> Self {
        let paint = |terminal: bool| Paint {
            colour: match choice {
                ColourChoice::Auto => terminal && !settings::no_color(),
                ColourChoice::Always => true,
                ColourChoice::Never => false,
            },
        };
        Self {
            json,
            out: paint(io::stdout().is_terminal()),
            err: paint(io::stderr().is_terminal()),
        }
    }

    /// Whether a program reads.
    #[must_use]
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person sees stderr as it is written.
    #[must_use]
    pub(crate) fn is_watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Whether somebody is there to answer a question.
    #[must_use]
    pub(crate) fn can_ask(&self) -> bool {
        self.is_watched() && io::stdin().is_terminal()
    }

    /// Gives the command's data: `value` to programs, `text` to people.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn data<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(Paint) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string_pretty(value)
                .map_err(|error| Failure::because("cannot write JSON", &error))?;
            self.raw(&json)
        } else {
            self.raw(&text(self.out))
        }
    }

    /// Writes `text` and a line break on stdout, nothing else.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        match write_out(text) {
            // Whoever read has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(unwritten(&error)),
            Ok(()) => Ok(()),
        }
    }

    /// Writes bytes that are for a file or a program on stdout, and nothing else.
    ///
    /// # Errors
    /// When stdout cannot be written, also because nobody reads.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|error| unwritten(&error))
    }

    /// Whether a person sees stdout as it is written.
    #[must_use]
    pub(crate) fn is_shown(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Writes, as [`Output::raw`] does, what cannot be told again.
    ///
    /// # Errors
    /// When stdout cannot be written, also because nobody reads.
    pub(crate) fn deliver(&self, text: &str) -> Result<(), Failure> {
        write_out(text).map_err(|error| unwritten(&error))
    }

    /// Tells the user something that is not data.
    pub(crate) fn note(&self, text: &str) {
        self.say(&escaped(text));
    }

    /// Tells the user something that needs attention.
    pub(crate) fn warn(&self, text: &str) {
        let mark = self.err.text(Tone::Warning, "warning:");
        self.say(&format!("{mark} {}", escaped(text)));
    }

    /// Tells how it failed and what to do next.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let report = serde_json::json!({ "error": {
                "message": failure.message,
                "reason": failure.reason,
                "next": failure.next,
                "exit": failure.exit.number(),
            }});
            self.say(&report.to_string());
            return;
        }
        let mark = self.err.text(Tone::Bad, "error:");
        let reason = match &failure.reason {
            Some(reason) => format!(" ({reason})"),
            None => String::new(),
        };
        self.say(&format!(
            "{mark} {}",
            escaped(&format!("{}{reason}", failure.message))
        ));
        if let Some(next) = &failure.next {
            let mark = self.err.text(Tone::Strong, "next:");
            self.say(&format!("{mark} {}", escaped(next)));
        }
    }

    /// Asks the user to type `expected` before something that cannot be undone, unless the answer is `assumed`.
    ///
    /// # Errors
    /// When something else is typed, and when nobody can be asked.
    pub(crate) fn confirm(&self, consequence: &str, expected: &str, assumed: bool) -> Result<(), Failure> {
        if assumed {
            return Ok(());
        }
        if !self.can_ask() {
            let message = format!("nobody can be asked whether this is meant: {consequence}");
            return Err(Failure::usage(message).next("repeat with `--yes`"));
        }
        self.say(&escaped(consequence));
        let mut stderr = io::stderr().lock();
        // Without the question the answer will be wrong, which is safe.
        let _unseen = write!(stderr, "type `{}` to go on: ", escaped(expected)).and_then(|()| stderr.flush());
        drop(stderr);
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::because("cannot read the answer", &error))?;
        if answer.trim() == expected {
            Ok(())
        } else {
            Err(Failure::new(Exit::Failure, "nothing was done")
                .next("repeat with `--yes` to skip the question"))
        }
    }

    fn say(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // There is nobody left to tell that stderr is gone.
        let _unseen = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush())
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::because("cannot write to stdout", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint::plain();
    const COLOURED: Paint = Paint { colour: true };

    #[test]
    fn a_table_is_columns_without_borders() {
        let table = PLAIN.table(
            &["NAME", "STATE"],
            vec![
                vec!["orders".into(), Text::toned("active", Tone::Good)],
                vec!["a-long-name".into(), "disabled".into()],
            ],
        );
        assert_eq!(
            table.lines().collect::<Vec<_>>(),
            [
                "NAME         STATE",
                "orders       active",
                "a-long-name  disabled",
            ]
        );
    }

    /// T84 and its like: what comes from elsewhere commands no terminal and turns no text round.
    #[test]
    fn what_would_not_show_itself_is_escaped() {
        let nasty = "a\u{1b}[31m\u{202e}b\u{2066}\u{200b}\u{2028}\r\t\u{fc}\\";
        let shown = "a\\u{1b}[31m\\u{202e}b\\u{2066}\\u{200b}\\u{2028}\\u{d}\\u{9}\u{fc}\\";
        assert_eq!(escaped(nasty), shown);
        assert_eq!(escaped("one\ntwo"), "one\ntwo");
        assert_eq!(PLAIN.text(Tone::Plain, nasty), shown);
        assert_eq!(
            COLOURED.text(Tone::Bad, nasty),
            format!("\u{1b}[31m{shown}\u{1b}[0m")
        );
        assert_eq!(
            PLAIN.table(&["A"], vec![vec![nasty.into()]]),
            format!("A\n{shown}")
        );
    }

    #[test]
    fn colour_is_there_only_when_asked_for() {
        assert_eq!(PLAIN.text(Tone::Bad, "x"), "x");
        assert_eq!(COLOURED.text(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(COLOURED.text(Tone::Plain, "x"), "x");
        let table = |paint: Paint| paint.table(&["A"], vec![vec![Text::toned("b", Tone::Good)]]);
        assert!(!table(PLAIN).contains('\u{1b}'));
    }
}
