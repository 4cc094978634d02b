// SPDX-License-Identifier: GPL-3.0-only
//! `microslice top`: what cpupools and domains do, again and again. [`model`] computes it, [`text`] lays it out; here are the
//! hypervisor, the clock and the terminal.

mod model;
mod text;

use super::domain::View;
use crate::cli;
use crate::hyper::safe::Xen;
use crate::hyper::safe::types::Pool;
use anyhow::{Context, Result, bail};
use crossterm::cursor::MoveTo;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen};
use futures_util::StreamExt;
use model::{Moment, Reading, Sizes};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame, TerminalOptions, Viewport};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use text::Sort;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep_until;

/// The screen of a serial line, which does not tell its size.
const SERIAL: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };

/// Idle times, cpupools, domains.
type Facts = (Vec<u64>, Vec<Pool>, Vec<View>);

/// Where readings come from.
struct Source<F> {
    facts: F,
    start: Instant,
    sizes: Sizes,
}

impl<F: FnMut() -> Result<Facts>> Source<F> {
    fn new(facts: F) -> Source<F> {
        Source { facts, start: Instant::now(), sizes: Sizes::default() }
    }

    fn read(&mut self) -> Result<Reading> {
        let at = self.start.elapsed();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (idle_ns, mut pools, mut domains) = (self.facts)()?;
        pools.retain(|pool| pool.schedule.is_some());
        domains.retain(|view| view.scheduled.is_some());
        let reading = Reading { at, time, pools, domains, idle_ns };
        self.sizes.note(&reading);
        Ok(reading)
    }
}

fn facts(xen: &Xen) -> Result<Facts> {
    let idle_ns = xen.idle_ns()?;
    let pools = xen.pools()?;
    let domains = View::all(xen, &pools)?;
    Ok((idle_ns, pools, domains))
}

/// Runs the command. It prints by itself: it does not end before it is told to.
pub fn run(args: &cli::Top, as_json: bool) -> Result<String> {
    let batch = args.batch || as_json;
    if !batch {
        can_draw()?;
    }
    let xen = Xen::open()?;
    let mut source = Source::new(|| facts(&xen));
    let delay = Duration::from_secs_f64(args.delay);
    if batch {
        batches(&mut source, delay, args.iterations, as_json)?;
    } else {
        screen(&mut source, delay, args.iterations)?;
    }
    Ok(String::new())
}

fn can_draw() -> Result<()> {
    if !io::stdout().is_terminal() {
        bail!("draw on standard output: it is no terminal: give --batch");
    }
    match std::env::var("TERM") {
        Ok(term) if !term.is_empty() && term != "dumb" => Ok(()),
        _ => {
            bail!("draw on the terminal: TERM says that it cannot move its cursor: set TERM, or give --batch")
        }
    }
}

fn batches(
    source: &mut Source<impl FnMut() -> Result<Facts>>,
    delay: Duration,
    iterations: Option<u32>,
    as_json: bool,
) -> Result<()> {
    let mut old = source.read()?;
    let mut out = io::stdout().lock();
    for _ in 0..iterations.unwrap_or(u32::MAX) {
        std::thread::sleep((old.at + delay).saturating_sub(source.start.elapsed()));
        let new = source.read()?;
        let moment = Moment::of(Some(&old), &new, &source.sizes);
        let block = if as_json { serde_json::to_string(&moment)? + "\n" } else { block(&moment) };
        match out.write_all(block.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.context("write to standard output")?,
        }
        old = new;
    }
    Ok(())
}

/// All columns; an empty line ends it.
fn block(moment: &Moment<'_>) -> String {
    let (top, rows) = text::lines(moment, text::LOG, Sort::default());
    let mut text = String::new();
    for line in top.iter().chain(&rows) {
        text += line.text.trim_end();
        text.push('\n');
    }
    text + "\n"
}

/// What the keys have chosen.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    sort: Sort,
    /// Domains that are scrolled out at the top.
    skip: usize,
    /// Draw the whole screen: what is on it may be another's.
    afresh: bool,
}

impl Choice {
    /// False if the key ends it.
    fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('l') if control => self.afresh = true,
            KeyCode::Char('s') => (self.sort, self.skip) = (self.sort.next(), 0),
            KeyCode::Down => self.skip = self.skip.saturating_add(1),
            KeyCode::Up => self.skip = self.skip.saturating_sub(1),
            KeyCode::PageDown => self.skip = self.skip.saturating_add(10),
            KeyCode::PageUp => self.skip = self.skip.saturating_sub(10),
            KeyCode::Home => self.skip = 0,
            _ => {}
        }
        true
    }
}

fn screen(
    source: &mut Source<impl FnMut() -> Result<Facts>>,
    delay: Duration,
    iterations: Option<u32>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ends = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()]
            .into_iter()
            .map(signal)
            .collect::<io::Result<Vec<_>>>()
            .context("take signals")?;
        let old = source.read()?;
        let mut terminal = begin().inspect_err(|_| ratatui::restore()).context("set up the terminal")?;
        let [terminate, hangup, interrupt] = &mut ends[..] else { return Ok(()) };
        let shown = tokio::select! {
            shown = show(&mut terminal, source, old, delay, iterations) => shown,
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        let ended = end(&mut terminal).context("restore the terminal");
        shown.and(ended)
    })
}

/// Raw mode and the alternate screen; a panic restores the terminal.
fn begin() -> io::Result<DefaultTerminal> {
    let known = crossterm::terminal::size().is_ok_and(|(width, height)| width > 0 && height > 0);
    let viewport = if known { Viewport::Fullscreen } else { Viewport::Fixed(SERIAL) };
    let terminal = ratatui::try_init_with_options(TerminalOptions { viewport })?;
    // Not Terminal::clear, which asks the terminal where its cursor is: a serial line may not answer.
    execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
    Ok(terminal)
}

fn end(terminal: &mut DefaultTerminal) -> io::Result<()> {
    // Where there is no alternate screen the prompt comes after what was drawn.
    let bottom = terminal.get_frame().area().bottom().saturating_sub(1);
    execute!(io::stdout(), MoveTo(0, bottom))?;
    terminal.show_cursor()?;
    ratatui::try_restore()
}

async fn show(
    terminal: &mut DefaultTerminal,
    source: &mut Source<impl FnMut() -> Result<Facts>>,
    first: Reading,
    delay: Duration,
    iterations: Option<u32>,
) -> Result<()> {
    let mut keys = EventStream::new();
    let mut choice = Choice::default();
    let (mut old, mut new) = (None, first);
    let mut left = iterations.unwrap_or(u32::MAX);
    loop {
        let moment = Moment::of(old.as_ref(), &new, &source.sizes);
        if std::mem::take(&mut choice.afresh) {
            execute!(io::stdout(), Clear(ClearType::All)).context("draw")?;
            terminal.swap_buffers();
        }
        terminal.draw(|frame| draw(frame, &moment, &mut choice)).context("draw")?;
        if left == 0 {
            return Ok(());
        }
        tokio::select! {
            () = sleep_until((source.start + new.at + delay).into()) => {
                let next = source.read()?;
                old = Some(std::mem::replace(&mut new, next));
                left -= 1;
            }
            event = keys.next() => match event.context("read the keyboard: it is closed")?.context("read the keyboard")? {
                Event::Key(key) if key.kind == KeyEventKind::Press && !choice.key(key) => return Ok(()),
                _ => {}
            },
        }
    }
}

fn draw(frame: &mut Frame<'_>, moment: &Moment<'_>, choice: &mut Choice) {
    let [body, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let (mut lines, rows) = text::lines(moment, body.width.into(), choice.sort);
    let room = usize::from(body.height).saturating_sub(lines.len());
    choice.skip = choice.skip.min(rows.len().saturating_sub(room));
    let keys = format!("q quit  s sort: {}", choice.sort.name());
    let last = (choice.skip + room).min(rows.len());
    let help = if rows.len() > room {
        format!("{}-{last} of {} domains, up and down  {keys}", choice.skip + 1, rows.len())
    } else {
        format!("{keys}  m micro core, r reserved  R has ranges")
    };
    lines.extend(rows.into_iter().skip(choice.skip).take(room));
    let width = usize::from(body.width);
    let styled = |line: text::Line| {
        if line.heading {
            // To the right edge.
            Line::styled(format!("{:<width$}", line.text), Style::new().add_modifier(Modifier::REVERSED))
        } else {
            Line::raw(line.text)
        }
    };
    frame.render_widget(Paragraph::new(Text::from_iter(lines.into_iter().map(styled))), body);
    frame.render_widget(Paragraph::new(help), foot);
}

#[cfg(test)]
mod tests {
    use super::model::tests::readings;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(width: u16, height: u16, reading: &(Option<Reading>, Reading), choice: &mut Choice) -> String {
        let mut sizes = Sizes::default();
        reading.0.iter().for_each(|old| sizes.note(old));
        sizes.note(&reading.1);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let moment = Moment::of(reading.0.as_ref(), &reading.1, &sizes);
        terminal.draw(|frame| draw(frame, &moment, choice)).unwrap();
        terminal.backend().to_string()
    }

    fn two() -> (Option<Reading>, Reading) {
        let (old, new) = readings();
        (Some(old), new)
    }

    /// As many domains as asked for.
    fn many(n: u32) -> (Option<Reading>, Reading) {
        let (mut old, mut new) = readings();
        for reading in [&mut old, &mut new] {
            let last = reading.domains.last().unwrap().clone();
            reading.domains.extend(
                (20..).take(n as usize - reading.domains.len()).map(|domid| View { domid, ..last.clone() }),
            );
        }
        (Some(old), new)
    }

    #[test]
    fn the_screen_of_80_by_24() {
        insta::assert_snapshot!(drawn(80, 24, &two(), &mut Choice::default()));
    }

    #[test]
    fn the_screen_of_132_by_40() {
        insta::assert_snapshot!(drawn(132, 40, &two(), &mut Choice::default()));
    }

    #[test]
    fn the_first_screen_has_no_rates() {
        let (_, new) = readings();
        insta::assert_snapshot!(drawn(80, 24, &(None, new), &mut Choice::default()));
    }

    #[test]
    fn a_block_of_batch() {
        let (old, new) = readings();
        let mut sizes = Sizes::default();
        sizes.note(&old);
        sizes.note(&new);
        insta::assert_snapshot!(block(&Moment::of(Some(&old), &new, &sizes)));
    }

    #[test]
    fn more_domains_than_lines_are_scrolled() {
        let readings = many(40);
        let mut choice = Choice::default();
        insta::assert_snapshot!(drawn(80, 24, &readings, &mut choice));
        for _ in 0..9 {
            assert!(choice.key(KeyCode::PageDown.into()));
        }
        let end = drawn(80, 24, &readings, &mut choice);
        assert!(end.contains("of 40 domains") && end.contains("-40 of"), "{end}");
        assert!(choice.skip < 40);
        assert!(choice.key(KeyCode::Home.into()) && choice.skip == 0);
    }

    #[test]
    fn a_screen_that_is_too_small_is_no_panic() {
        for (width, height) in [(1, 1), (20, 3), (79, 5), (80, 2)] {
            drawn(width, height, &many(30), &mut Choice::default());
        }
    }

    /// What `the_terminal_is_restored` runs on a terminal: readings that change, and at last a panic if told so.
    #[test]
    #[ignore = "draws on the terminal"]
    fn draws_on_the_terminal() {
        let (old, new) = readings();
        let mut readings = [old, new.clone()].into_iter();
        let facts = move || {
            let reading = match readings.next() {
                None if std::env::var_os("TOP_PANICS").is_some() => panic!("as told"),
                next => next.unwrap_or(new.clone()),
            };
            Ok((reading.idle_ns, reading.pools, reading.domains))
        };
        screen(&mut Source::new(facts), Duration::from_millis(200), None).unwrap();
    }

    /// How a screen ends.
    enum End {
        Keys(&'static [u8]),
        Terminate,
        Panic,
    }

    /// Runs this test binary's `draws_on_the_terminal` on a terminal of `script` (Debian: bsdutils), and ends it once it has
    /// drawn; what came out up to then, and the terminal's settings afterwards.
    fn on_a_terminal(end: &End) -> (String, String) {
        use std::io::Read;
        use std::process::{Command, Stdio};
        let exe = std::env::current_exe().unwrap();
        let draw = format!("{} --ignored --exact cmd::top::tests::draws_on_the_terminal", exe.display());
        let shell = match end {
            End::Keys(_) => draw,
            End::Terminate => format!("{draw} & echo \"PID $! \"; wait $!"),
            End::Panic => format!("TOP_PANICS=1 {draw}"),
        };
        let mut script = Command::new("script")
            .args(["-qec", &format!("{shell}; echo THE END; stty -a"), "/dev/null"])
            .env("TERM", "vt100")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let (mut out, mut some) = (Vec::new(), [0; 4096]);
        let text = |out: &[u8]| String::from_utf8_lossy(out).into_owned();
        while !text(&out).contains("pCPUs") {
            let n = stdout.read(&mut some).unwrap();
            assert!(n > 0, "nothing drawn: {:?}", text(&out));
            out.extend(some.iter().take(n));
        }
        match end {
            End::Keys(keys) => stdin.write_all(keys).unwrap(),
            End::Terminate => {
                let pid = text(&out).split_once("PID ").unwrap().1.split(' ').next().unwrap().to_owned();
                assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            }
            End::Panic => {}
        }
        stdout.read_to_end(&mut out).unwrap();
        script.wait().unwrap();
        let text = text(&out);
        let (drawn, settings) = text.split_once("THE END").unwrap_or_else(|| panic!("no end: {text:?}"));
        (drawn.to_owned(), settings.to_owned())
    }

    #[test]
    fn the_terminal_is_restored() {
        for end in [End::Keys(b"\x03"), End::Keys(b"q"), End::Terminate, End::Panic] {
            let (drawn, settings) = on_a_terminal(&end);
            let left = drawn.rfind("\x1b[?1049l").unwrap_or_else(|| panic!("not left: {drawn:?}"));
            assert!(left > drawn.find("pCPUs").unwrap(), "left before it was drawn: {drawn:?}");
            assert!(drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l"), "no cursor: {drawn:?}");
            let set = |name| settings.split([' ', ';', '\r', '\n']).any(|word| word == name);
            assert!(set("icanon") && set("echo") && set("opost") && set("isig"), "{settings}");
        }
    }

    #[test]
    fn keys_end_it() {
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for key in [control, KeyCode::Char('q').into(), KeyCode::Esc.into()] {
            assert!(!Choice::default().key(key));
        }
        assert!(Choice::default().key(KeyCode::Char('c').into()));
    }
}
