//! The survey of a journal in words, and what a person can do about damage. It decides nothing and reads no file.

use std::{fmt::Write as _, path::Path};

use ridethrough::journal::{AsideSurvey, CursorState, Loss, SegmentState, SegmentSurvey, Survey};

use super::{aside_words, rfc3339};

/// The whole answer for people.
pub(super) fn report(folder: &Path, survey: &Survey) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, folder, survey);
    out
}

fn write(out: &mut String, folder: &Path, survey: &Survey) -> std::fmt::Result {
    let folder = folder.display();
    let verdict = if survey.is_sound() { "sound" } else { "DAMAGED: a server does not start with it" };
    writeln!(out, "journal {folder}: {verdict}")?;
    if survey.in_use {
        writeln!(
            out,
            "in use: a server owns it now and may be writing, so these are the figures of one moment; \
             a torn tail may be an append in progress, and other damage is certain only once the server is stopped"
        )?;
    }
    segments(out, &survey.segments)?;
    writeln!(out, "cursor: {}", cursor(&survey.cursor))?;
    if survey.unfinished > 0 {
        writeln!(out, "unfinished files: {}, which the next start removes", survey.unfinished)?;
    }
    waiting(out, survey)?;
    set_aside_entries(out, &survey.aside)?;
    if !survey.is_sound() {
        writeln!(out)?;
        advice(out, &folder.to_string(), survey)?;
    }
    Ok(())
}

fn segments(out: &mut String, segments: &[SegmentSurvey]) -> std::fmt::Result {
    if segments.is_empty() {
        return writeln!(out, "segments: none");
    }
    writeln!(out, "segments:")?;
    for segment in segments {
        let version = segment.format_version.map_or("unknown".to_owned(), |version| version.to_string());
        let range = match segment.last {
            Some(last) => {
                format!("{} (sequences {} to {last})", counted(segment.records, "record"), segment.first)
            }
            None => "no record".to_owned(),
        };
        writeln!(
            out,
            "  {}: format {version}, {}, {range}, {} waiting; {}",
            segment.name,
            counted(segment.bytes, "byte"),
            segment.pending,
            state(&segment.state)
        )?;
    }
    Ok(())
}

fn state(state: &SegmentState) -> String {
    match state {
        SegmentState::Sound => "sound".to_owned(),
        SegmentState::Torn { offset, bytes } => format!(
            "sound, with a torn tail of {} at byte {offset}: an append that was never acknowledged, which the \
             next start cuts off",
            counted(*bytes, "byte")
        ),
        SegmentState::Damaged { offset, what } => {
            format!("DAMAGED at byte {offset}: {what}; the figures are of what comes before")
        }
        SegmentState::Unreadable { what } => format!("UNREADABLE: {what}"),
    }
}

fn cursor(cursor: &CursorState) -> String {
    match cursor {
        CursorState::Missing => "none; nothing was settled yet".to_owned(),
        CursorState::At(through) => format!("everything up to sequence {through} is settled"),
        CursorState::Lost { what } => format!(
            "unreadable ({what}); a start gives every entry to replay again, which doubles nothing, since each \
             key is applied once"
        ),
        CursorState::Contradicts { through, what } => {
            format!("DAMAGED: everything up to sequence {through} is settled, but {what}")
        }
        CursorState::Unreadable { what } => format!("UNREADABLE: {what}"),
    }
}

fn waiting(out: &mut String, survey: &Survey) -> std::fmt::Result {
    let pending = &survey.pending;
    let readable = if survey.is_sound() { "" } else { " that can be read" };
    if pending.entries == 0 {
        return writeln!(out, "waiting: no write{readable}");
    }
    let oldest = pending.oldest_accepted_at.and_then(rfc3339);
    writeln!(
        out,
        "waiting: {}{readable}, {}, the oldest accepted at {}",
        counted(pending.entries, "write"),
        counted(pending.bytes, "byte"),
        oldest.as_deref().unwrap_or("a time beyond the calendar")
    )?;
    for (kind, count) in &survey.kinds {
        // A name that somebody made up must not steer a terminal.
        writeln!(out, "  {}: {count}", kind.escape_debug())?;
    }
    if survey.kinds_beyond > 0 {
        writeln!(out, "  further commands: {}", survey.kinds_beyond)?;
    }
    Ok(())
}

fn set_aside_entries(out: &mut String, aside: &AsideSurvey) -> std::fmt::Result {
    let Some(file) = &aside.state else { return writeln!(out, "set aside: nothing") };
    writeln!(
        out,
        "set aside: {} rejected, {} held, {} moved; the file aside: {}, {}",
        aside.rejected,
        aside.held,
        aside.moved,
        counted(aside.bytes, "byte"),
        state(file)
    )?;
    for group in &aside.groups {
        let (is, reason) = aside_words(&group.why);
        writeln!(
            out,
            "  {is} ({}): {} version {}, {} of {}",
            reason.escape_debug(),
            group.kind.escape_debug(),
            group.version,
            counted(group.entries, "write"),
            counted(group.ordering_keys, "ordering key")
        )?;
    }
    if aside.beyond > 0 {
        writeln!(out, "  further commands and reasons: {}", aside.beyond)?;
    }
    if aside.rejected > 0 {
        writeln!(
            out,
            "  `journal export` shows them whole, `journal retry` gives rejected ones back, `journal discard` forgets them"
        )?;
    }
    if aside.held > 0 {
        writeln!(
            out,
            "  held writes wait for a program that knows the command in that version; start one with this folder"
        )?;
    }
    if aside.moved > 0 {
        writeln!(out, "  moved writes only made room: they wait to be applied, like those above")?;
    }
    Ok(())
}

fn advice(out: &mut String, folder: &str, survey: &Survey) -> std::fmt::Result {
    writeln!(out, "What you can do:")?;
    writeln!(
        out,
        "1. Stop the server that uses this folder, and keep a copy of all of {folder} before anything else: what \
         waits in it may be nowhere else. This command works on a copy, too."
    )?;
    let unreadable = matches!(survey.cursor, CursorState::Unreadable { .. })
        || survey.segments.iter().any(|segment| matches!(segment.state, SegmentState::Unreadable { .. }));
    if unreadable {
        writeln!(
            out,
            "   A file is UNREADABLE: look again as the account that the server runs under; where that does not \
             help, the disk is failing."
        )?;
    }
    writeln!(
        out,
        "2. Meanwhile start the server with another, empty --data-dir: it serves and accepts at once. What waits \
         here is not applied until a server starts with this folder."
    )?;
    writeln!(out, "3. {}", set_aside(survey))
}

/// What becomes of the folder without its damaged files.
fn set_aside(survey: &Survey) -> String {
    let mut words: Vec<String> = survey.losses.iter().map(lost).collect();
    let after = match (&survey.cursor, &survey.refused_without_damaged) {
        (CursorState::Unreadable { .. }, _) => "Setting the file cursor aside loses nothing: a start then gives every \
                                                entry that is there to replay again, which doubles nothing."
            .to_owned(),
        (CursorState::Contradicts { .. }, _) => "What the cursor proves to be gone is in no file of this folder, and \
                                                 setting files aside does not bring it back: an older copy may have \
                                                 it. What was settled is in the database; whether writes that came \
                                                 later are gone with it, nobody can say."
            .to_owned(),
        (_, None) => "A server starts with what is left.".to_owned(),
        (_, Some(reason)) => format!("A server would still refuse what is left: {reason}."),
    };
    words.push(after);
    words.join(" ")
}

fn lost(loss: &Loss) -> String {
    let file = &loss.file;
    let writes = match (loss.first, loss.last) {
        (None, _) => return format!("Setting {file} aside loses nothing: all of it is settled."),
        (Some(first), Some(last)) if first == last => format!("the write of sequence {first}"),
        (Some(first), Some(last)) => {
            format!("the {} of sequences {first} to {last}", counted(last - first + 1, "write"))
        }
        (Some(first), None) => format!("all writes from sequence {first} on, nobody can say how many"),
    };
    format!("Setting {file} aside loses {writes}; {} of them come before the damage.", loss.readable)
}

fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
