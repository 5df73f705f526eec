//! Text that people write and that is shown to others, on a terminal or in a log.

/// Whether `character` shows itself as what it is. Controls do not, nor do characters without a form of their own that break
/// lines or that change the order in which others are read: behind them, one text passes for another. These are the Unicode
/// categories Cc, Cf, Zl and Zp.
#[must_use]
pub fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T84 and its like: what turns text round, hides in it or breaks it is not shown; letters of all scripts are.
    #[test]
    fn what_does_not_show_itself_is_told_from_what_does() {
        for hidden in [
            '\0',
            '\n',
            '\u{1b}',
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            assert!(!is_shown(hidden), "{hidden:?}");
        }
        assert!(
            "f\u{fc}r \u{642} \u{8acb} e\u{301} \u{1f69a} \\\""
                .chars()
                .all(is_shown)
        );
    }
}
