//! The demo's table: one aligned line for each request, readable and easy to grep.

use std::time::Duration;

use crate::cli::terminal::Palette;

/// One line.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was tried.
    pub what: &'static str,
    /// The URL.
    pub address: String,
    /// What came back, or what went wrong.
    pub answer: Result<String, String>,
    /// Connecting, handshakes and the whole answer together.
    pub took: Duration,
}

/// The rows under their headings, two spaces between the columns.
pub fn render(rows: &[Row], colours: Palette) -> String {
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let (Ok(answer) | Err(answer)) = &row.answer;
            [row.what.to_owned(), row.address.clone(), answer.clone(), milliseconds(row.took)]
        })
        .collect();
    let width = |column: usize| {
        cells.iter().map(|cell| cell[column].chars().count()).chain([HEADINGS[column].len()]).max().unwrap_or(0)
    };
    let [what, address, answer, time] = [width(0), width(1), width(2), width(3)];
    let [a, b, c, d] = HEADINGS;
    let heading = format!("{a:what$}  {b:address$}  {c:answer$}  {d:>time$}");
    let mut table = format!("{}\n", colours.bold(&heading));
    for (row, [a, b, c, d]) in rows.iter().zip(&cells) {
        // Padded before it is painted: a colour's bytes have no width.
        let c = format!("{c:answer$}");
        let c = if row.answer.is_ok() { colours.good(&c) } else { colours.bad(&c) };
        table.push_str(&format!("{a:what$}  {b:address$}  {c}  {d:>time$}\n"));
    }
    table
}

/// `1.23 ms`, `45.6 ms`, `1250 ms`: three figures are all that a single request can mean.
fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    let decimals = match ms {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{ms:.decimals$} ms")
}

const HEADINGS: [&str; 4] = ["what", "address", "answer", "time"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |what, address: &str, answer, ms| Row {
            what,
            address: address.to_owned(),
            answer,
            took: Duration::from_micros(ms),
        };
        let rows = [
            row("HTTP/1.1", "http://127.0.0.1:8080", Ok("200 HTTP/1.1".to_owned()), 1_234),
            row("HTTP/2 over TLS", "https://localhost:8443", Err("é refused".to_owned()), 12_345),
        ];
        assert_eq!(
            render(&rows, Palette::plain()),
            "what             address                 answer           time\n\
             HTTP/1.1         http://127.0.0.1:8080   200 HTTP/1.1  1.23 ms\n\
             HTTP/2 over TLS  https://localhost:8443  é refused     12.3 ms\n"
        );
    }
}
