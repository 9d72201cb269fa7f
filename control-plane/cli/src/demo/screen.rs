//! The picture in the terminal: customers, services, canaries, edges, what happened, keys.
//!
//! Drawing only: everything shown comes in with a [`Scene`]. A terminal smaller than 100 × 30 goes
//! without the services, of which the edges say nearly the same; 80 × 24 has the rest.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, Wrap};

use super::board::{EdgeRow, Flow, LoadRow, ServiceRow, SplitRow, View};
use super::keys::{Fault, HELP};

/// Events that are kept to be shown.
const NEWS_MAX: usize = 50;
const BAR: usize = 20;
/// From this size on there is room for everything.
const WIDTH_FULL: u16 = 100;
const HEIGHT_FULL: u16 = 30;
const CANARIES_WIDTH: u16 = 46;

/// A canary that keys act on.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    /// Its service.
    pub(super) service: &'static str,
    /// The weight in its VirtualService, out of 100.
    pub(super) weight: u8,
    /// What it was told to do.
    pub(super) fault: Fault,
}

/// What happened, newest last, with the time since the start.
#[derive(Debug, Default)]
pub(super) struct News {
    events: VecDeque<(Duration, String)>,
    /// The last change of the configuration and who has it.
    pub(super) config: Option<(Duration, String)>,
}

impl News {
    /// Adds an event; the oldest goes when there are too many.
    pub(super) fn add(&mut self, at: Duration, event: String) {
        self.events.push_back((at, event));
        if self.events.len() > NEWS_MAX {
            self.events.pop_front();
        }
    }
}

/// All that is drawn.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// Since the load began.
    pub(super) elapsed: Duration,
    pub(super) view: &'a View,
    pub(super) canaries: &'a [Canary],
    /// Index of the canary that keys act on.
    pub(super) chosen: usize,
    pub(super) news: &'a News,
    pub(super) help: bool,
}

/// Draws the scene.
pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let area = frame.area();
    if area.width < WIDTH_FULL || area.height < HEIGHT_FULL {
        draw_small(frame, scene);
    } else {
        draw_full(frame, scene);
    }
    if scene.help {
        help(frame);
    }
}

fn draw_full(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let view = scene.view;
    let [title, top, edges, news, keys] = Layout::vertical([
        Constraint::Length(2),
        rows(1 + view.services.len().max(2 * scene.canaries.len())),
        rows(1 + view.edges.len()),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(CANARIES_WIDTH)]).areas(top);
    frame.render_widget(header(scene), title);
    frame.render_widget(services(&view.services), left);
    frame.render_widget(canaries(scene), right);
    frame.render_widget(edge_table(&view.edges), edges);
    frame.render_widget(happened(scene.news, news), news);
    frame.render_widget(key_line(), keys);
}

fn draw_small(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let [title, top, edges, keys] = Layout::vertical([
        Constraint::Length(2),
        rows(2 * scene.canaries.len()),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Length(CANARIES_WIDTH), Constraint::Fill(1)]).areas(top);
    frame.render_widget(header(scene), title);
    frame.render_widget(canaries(scene), left);
    frame.render_widget(happened(scene.news, right), right);
    frame.render_widget(edge_table(&scene.view.edges), edges);
    frame.render_widget(key_line(), keys);
}

/// So many lines within a border.
fn rows(count: usize) -> Constraint {
    Constraint::Length(u16::try_from(count + 2).unwrap_or(u16::MAX))
}

fn header(scene: &Scene<'_>) -> Paragraph<'static> {
    let LoadRow {
        flow,
        requests,
        failed,
        in_flight,
        shed,
        failure,
    } = &scene.view.load;
    let mtls = scene.view.mtls;
    let mut first = vec![
        Span::from(" outrigger demo ").bold().reversed(),
        Span::from(format!(" {} s   customers ", scene.elapsed.as_secs())),
        Span::from(format!("{:.0}/s ", flow.rate)).bold(),
    ];
    first.push(success(flow.success));
    first.push(Span::from(format!(
        "  p50 {} ms  p99 {} ms   ",
        ms(flow.p50_ms),
        ms(flow.p99_ms)
    )));
    first.push(Span::from(match mtls {
        Some(share) => format!("mTLS {}", percent(share)),
        None => "mTLS -".to_owned(),
    }));
    let mut second = format!(
        " {requests} requests, {failed} failed, {in_flight} in flight, {} retries, {} ejections",
        scene.view.retries, scene.view.ejections
    );
    if *shed > 0 {
        second.push_str(&format!(", {shed} turned away"));
    }
    if let Some(failure) = failure {
        second.push_str(&format!("; last failure: {failure}"));
    }
    Paragraph::new(vec![Line::from(first), Line::from(second).dim()])
}

fn services(rows: &[ServiceRow]) -> Table<'static> {
    let rows = rows.iter().map(|row| {
        let (up, all) = row.up;
        let instances = Cell::from(format!("{up}/{all}"));
        let instances = if up < all { instances.red() } else { instances };
        let mut cells = vec![Cell::from(row.name.clone()), instances];
        cells.extend(flow_cells(&row.flow));
        Row::new(cells)
    });
    let widths = [
        Constraint::Min(15),
        Constraint::Length(4),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
    ];
    Table::new(rows, widths)
        .header(heading([
            "service", "up", "req/s", "ok", "p50 ms", "p99 ms",
        ]))
        .block(Block::bordered().title(" services "))
}

fn edge_table(rows: &[EdgeRow]) -> Table<'static> {
    let rows = rows.iter().map(|row| {
        let mut cells = vec![Cell::from(format!("{} → {}", row.edge.from, row.edge.to))];
        cells.extend(flow_cells(&row.flow));
        cells.push(match row.mtls {
            None => Cell::from("-").dim(),
            Some(share) if share >= 1.0 => Cell::from("mTLS").green(),
            Some(share) if share <= 0.0 => Cell::from("plain").red(),
            Some(share) => Cell::from(percent(share)).yellow(),
        });
        let retries = Cell::from(format!("{:.1}/s {}", row.retries, row.retries_total));
        cells.push(attention(retries, row.retries > 0.0));
        let ejected = Cell::from(format!("{}/{}", row.ejected, row.ejections_total));
        cells.push(attention(ejected, row.ejected > 0));
        Row::new(cells)
    });
    let widths = [
        Constraint::Min(28),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(7),
    ];
    let names = [
        "edge", "req/s", "ok", "p50 ms", "p99 ms", "wire", "retries", "ejected",
    ];
    Table::new(rows, widths).header(heading(names)).block(
        Block::bordered().title(" edges (last 5 s; retries a second, in all; ejected now/in all) "),
    )
}

fn heading<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names).style(Style::new().add_modifier(Modifier::DIM))
}

fn attention(cell: Cell<'static>, needed: bool) -> Cell<'static> {
    if needed { cell.yellow() } else { cell }
}

fn flow_cells(flow: &Flow) -> [Cell<'static>; 4] {
    [
        Cell::from(format!("{:.1}", flow.rate)),
        Cell::from(success(flow.success)),
        Cell::from(ms(flow.p50_ms)),
        Cell::from(ms(flow.p99_ms)),
    ]
}

fn success(share: Option<f64>) -> Span<'static> {
    let Some(share) = share else {
        return Span::from("-").dim();
    };
    let color = match share {
        share if share >= 0.999 => Color::Green,
        share if share >= 0.95 => Color::Yellow,
        _ => Color::Red,
    };
    Span::styled(percent(share), color)
}

/// A share in percent, rounded down, so that 100 % means all.
pub(super) fn percent(share: f64) -> String {
    let tenths = (share * 1e3).floor() / 10.0;
    if tenths >= 100.0 {
        "100 %".to_owned()
    } else {
        format!("{tenths:.1} %")
    }
}

pub(super) fn ms(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn canaries(scene: &Scene<'_>) -> Paragraph<'static> {
    let mut lines = Vec::new();
    for (index, canary) in scene.canaries.iter().enumerate() {
        let mut splits = scene.view.splits.iter();
        let split = splits.find(|row| row.service == canary.service);
        let mark = if index == scene.chosen { "▶ " } else { "  " };
        let mut name = vec![
            Span::from(mark).yellow(),
            Span::from(canary.service).bold(),
            Span::from(format!("  v2 weight {} %", canary.weight)),
        ];
        match canary.fault {
            Fault::None => {}
            Fault::Fail => name.push(Span::from("  v2 FAILS").red()),
            Fault::Hang => name.push(Span::from("  v2 HANGS").red()),
        }
        lines.push(Line::from(name));
        lines.push(bar(split));
    }
    let block = Block::bordered().title(" canaries ");
    Paragraph::new(lines).block(block)
}

/// The measured split, as a bar and in numbers.
fn bar(split: Option<&SplitRow>) -> Line<'static> {
    let Some(split) = split else {
        return Line::from("    no requests yet").dim();
    };
    let looks = [
        (Color::Blue, "█"),
        (Color::Magenta, "▒"),
        (Color::Cyan, "░"),
    ];
    let mut bars = vec![Span::from("  ")];
    let mut numbers = Vec::new();
    let mut drawn = 0.0;
    for ((subset, share, ok), (color, fill)) in split.subsets.iter().zip(looks.iter().cycle()) {
        let edge =
            |share: f64| (0..BAR).filter(move |step| (*step as f64 + 0.5) / (BAR as f64) < share);
        let width = edge(drawn + share).count() - edge(drawn).count();
        drawn += share;
        bars.push(Span::styled(fill.repeat(width), *color));
        numbers.push(Span::styled(format!("  {subset}"), *color));
        numbers.push(Span::from(format!(" {:.0} %", share * 100.0)));
        if ok.is_some_and(|ok| ok < 1.0) {
            numbers.push(Span::from("!").red());
        }
    }
    bars.extend(numbers);
    Line::from(bars)
}

fn happened(news: &News, area: Rect) -> Paragraph<'static> {
    let mut lines = Vec::new();
    if let Some((at, config)) = &news.config {
        let text = format!(" {:>4} s  last change: {config}", at.as_secs());
        lines.push(Line::from(text).cyan());
    }
    let room = usize::from(area.height).saturating_sub(2 + lines.len());
    for (at, event) in news.events.iter().rev().take(room) {
        lines.push(Line::from(format!(" {:>4} s  {event}", at.as_secs())));
    }
    let block = Block::bordered().title(" what happened ");
    Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block)
}

fn key_line() -> Paragraph<'static> {
    // The end is lost first where the terminal is narrow.
    let keys = [
        ("q", "quit"),
        ("?", "help"),
        ("+/-", "weight"),
        ("f", "fail"),
        ("h", "hang"),
        ("o", "ok"),
        ("tab", "canary"),
        ("k", "kill"),
        ("r", "restart"),
        ("s", "kill sidecar"),
    ];
    let spans = keys.iter().flat_map(|(key, meaning)| {
        [
            Span::from(format!(" {key} ")).reversed(),
            Span::from(format!(" {meaning} ")),
        ]
    });
    Paragraph::new(Line::from_iter(spans))
}

fn help(frame: &mut Frame<'_>) {
    let lines: Vec<_> = HELP
        .iter()
        .map(|(key, meaning)| {
            Line::from(vec![
                Span::from(format!(" {key:<5}")).bold(),
                Span::from(*meaning),
            ])
        })
        .collect();
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let area = frame
        .area()
        .centered(Constraint::Length(74), Constraint::Length(height));
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests;
