//! The demo's one loop: hears from the mesh (`up`), the load generator, rounds of scraping, the
//! keyboard and signals, keeps a [`Stage`], and shows it on the terminal or as lines.
//!
//! Bounds: one round of scraping at a time; errands have deadlines.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rustix::process::{Pid, Signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::board::Page;
use super::client::Client;
use super::keys::Action;
use super::lines::{self, Form};
use super::load::{self, Totals};
use super::scrape;
use super::stage::{Errand, Stage};
use super::summary::Summary;
use super::terminal::{Input, Keyboard, Screen};
use crate::args;
use crate::command::up::Signals;
use crate::up::{
    self, Application,
    event::{Event, StopReason},
};

/// Between two rounds of scraping.
const ROUND: Duration = Duration::from_secs(1);
/// A mesh that is not ready by then will not be.
const TIMEOUT_READY: Duration = Duration::from_mins(2);
/// For a word to an application.
const TIMEOUT_ERRAND: Duration = Duration::from_secs(2);

/// Where the demo is seen.
pub(super) enum Show {
    Screen(Screen, Keyboard),
    Lines(Form),
}

impl Show {
    /// The terminal if it is to be drawn on, else lines.
    ///
    /// # Errors
    /// If the terminal does not obey.
    pub(super) fn open(report: Option<args::Report>, drawn: bool) -> anyhow::Result<Self> {
        if drawn {
            let screen =
                Screen::open().context("cannot draw on this terminal (try --report text)")?;
            return Ok(Self::Screen(screen, Keyboard::open()));
        }
        Ok(Self::Lines(match report {
            Some(args::Report::Json) => Form::Json,
            Some(args::Report::Text) | None => Form::Text,
        }))
    }
}

/// The load generator while it runs.
struct Generator {
    totals: watch::Receiver<Totals>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

/// What the loop heard.
enum Turn {
    Mesh(Event),
    MeshEnded,
    Input(Input),
    Round,
    Pages(Vec<Page>),
    /// An errand could not be done.
    Complaint(String),
    GeneratorEnded,
    TimeOver,
    Asked,
}

/// See the module.
pub(super) struct Player {
    stage: Stage,
    show: Show,
    events: mpsc::Receiver<Event>,
    signals: Signals,
    client: Client,
    generator: Option<Generator>,
    /// At most one round at a time.
    rounds: JoinSet<Vec<Page>>,
    /// Errands on their way; each has a deadline, and a person's fingers bound them.
    errands: JoinSet<Option<String>>,
    second: Interval,
    scraped: Instant,
    began: Instant,
    deadline: Option<Instant>,
    time: Option<Duration>,
    rate: u32,
}

impl Player {
    /// Ready to play; `rate` is in requests a second, `time` counts from when load begins.
    pub(super) fn new(
        stage: Stage,
        show: Show,
        events: mpsc::Receiver<Event>,
        signals: Signals,
        rate: u32,
        time: Option<Duration>,
    ) -> Self {
        let mut second = interval(ROUND);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        Self {
            stage,
            show,
            events,
            signals,
            client: Client::new(),
            generator: None,
            rounds: JoinSet::new(),
            errands: JoinSet::new(),
            second,
            scraped: now,
            began: now,
            deadline: Some(now + TIMEOUT_READY),
            time,
            rate,
        }
    }

    /// Until somebody or something ends it.
    ///
    /// # Errors
    /// If the mesh does not get ready, has no way for the load, or the output is gone.
    pub(super) async fn play(&mut self, mesh: &up::Mesh) -> anyhow::Result<StopReason> {
        loop {
            match self.turn().await {
                Turn::Mesh(event) => self.hear(&event)?,
                Turn::MeshEnded => return Ok(StopReason::Failed),
                Turn::Input(Input::Resize) => {}
                Turn::Input(Input::Act(action)) => {
                    let errand = self.stage.act(self.began.elapsed(), action);
                    if errand == Some(Errand::Quit) {
                        return Ok(StopReason::Asked);
                    }
                    if let Some(errand) = errand {
                        self.send(errand, mesh).await;
                    }
                }
                Turn::Round => self.begin_round(),
                Turn::Pages(pages) => self.take(pages)?,
                Turn::Complaint(text) => self.stage.news.add(self.began.elapsed(), text),
                Turn::GeneratorEnded => anyhow::bail!("the load generator ended by itself"),
                Turn::Asked => return Ok(StopReason::Asked),
                Turn::TimeOver if self.generator.is_some() => return Ok(StopReason::Time),
                Turn::TimeOver => {
                    let limit = TIMEOUT_READY.as_secs();
                    anyhow::bail!("the mesh is not ready after {limit} s: --report text shows why");
                }
            }
            self.draw()?;
        }
    }

    /// Waits for what comes next. Cancel safe: yes, each branch is.
    async fn turn(&mut self) -> Turn {
        let now = Instant::now();
        tokio::select! {
            event = self.events.recv() => event.map_or(Turn::MeshEnded, Turn::Mesh),
            input = next_input(&mut self.show) => Turn::Input(input),
            () = self.signals.next() => Turn::Asked,
            Some(pages) = self.rounds.join_next() => Turn::Pages(pages.unwrap_or_default()),
            Some(Ok(Some(text))) = self.errands.join_next() => Turn::Complaint(text),
            () = generator_end(&mut self.generator) => Turn::GeneratorEnded,
            _ = self.second.tick() => Turn::Round,
            () = sleep_until(self.deadline.unwrap_or(now)), if self.deadline.is_some() => {
                Turn::TimeOver
            }
        }
    }

    fn hear(&mut self, event: &Event) -> anyhow::Result<()> {
        self.stage.hear(self.began.elapsed(), event);
        if let Show::Lines(form) = &self.show {
            lines::write(*form, event, &event.to_string())?;
        }
        if matches!(event, Event::Ready { .. }) {
            let targets = self.stage.targets()?;
            let (tell, totals) = watch::channel(Totals::default());
            let stop = CancellationToken::new();
            let mut task = JoinSet::new();
            task.spawn(load::run(targets, self.rate, tell, stop.clone()));
            self.generator = Some(Generator { totals, stop, task });
            self.scraped = Instant::now();
            self.second.reset();
            self.deadline = self.time.map(|time| Instant::now() + time);
        }
        Ok(())
    }

    /// Asks all sidecars, unless there is nothing to count or the last round still runs.
    fn begin_round(&mut self) {
        if self.generator.is_none() || !self.rounds.is_empty() {
            return;
        }
        let (client, sources) = (self.client.clone(), self.stage.sources());
        self.rounds
            .spawn(async move { scrape::round(&client, &sources).await });
    }

    fn take(&mut self, pages: Vec<Page>) -> anyhow::Result<()> {
        let load = match &self.generator {
            Some(generator) => generator.totals.borrow().clone(),
            None => self.stage.board.load(),
        };
        let elapsed = self.scraped.elapsed();
        self.scraped += elapsed;
        self.stage.board.take(pages, load, elapsed);
        if let Show::Lines(form) = &self.show {
            let board = &self.stage.board;
            let so_far = Summary::so_far(&board.load(), board.totals());
            let text = lines::text(self.began.elapsed(), &board.view());
            lines::write(*form, &so_far, &text)?;
        }
        Ok(())
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        if let Show::Screen(screen, _) = &mut self.show {
            let elapsed = self.began.elapsed();
            self.stage.scene(elapsed, |scene| screen.show(scene))?;
        }
        Ok(())
    }

    async fn send(&mut self, errand: Errand, mesh: &up::Mesh) {
        match errand {
            Errand::Quit => {}
            Errand::Kill(workload) => {
                mesh.application(workload.clone(), Application::Kill).await;
                // The supervisor starts again what dies, unless it is to be down.
                mesh.application(workload, Application::Stop).await;
            }
            Errand::Restart(workload) => mesh.application(workload, Application::Start).await,
            Errand::Signal(process) => {
                let process = i32::try_from(process).ok().and_then(Pid::from_raw);
                let killed = process.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
                if let Some(Err(error)) = killed {
                    let text = format!("the sidecar cannot be killed: {error}");
                    self.stage.news.add(self.began.elapsed(), text);
                }
            }
            Errand::Fault { application, fault } => {
                let client = self.client.clone();
                let body = format!(r#"{{"mode":"{}"}}"#, fault.mode());
                let uri = format!("http://{application}/_control");
                self.errands.spawn(async move {
                    let done = post(&client, &uri, body).await;
                    done.err().map(|error| format!("{uri}: {error:#}"))
                });
            }
        }
    }

    /// Ends the load, counts a last time, ends the mesh.
    pub(super) async fn end(&mut self, mesh: up::Mesh) -> Summary {
        self.stage
            .news
            .add(self.began.elapsed(), "stopping".to_owned());
        self.draw().ok();
        let cut = mesh.cut();
        self.deadline = None;
        if let Some(generator) = &self.generator {
            generator.stop.cancel();
            self.wait_for_generator(&cut).await;
            let pages = scrape::round(&self.client, &self.stage.sources()).await;
            // An error says that nobody reads the lines; the summary says so too.
            self.take(pages).ok();
        }
        let ending = mesh.stop();
        tokio::pin!(ending);
        loop {
            tokio::select! {
                () = &mut ending => break,
                Some(event) = self.events.recv() => { self.hear_last(&event); }
                () = self.signals.next() => cut.cancel(),
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.hear_last(&event);
        }
        let board = &self.stage.board;
        Summary::end(&board.load(), board.totals())
    }

    /// What happens meanwhile is heard, but answered no more; asked again, it does not wait.
    async fn wait_for_generator(&mut self, cut: &CancellationToken) {
        loop {
            match self.turn().await {
                Turn::GeneratorEnded | Turn::MeshEnded => return,
                Turn::Asked | Turn::Input(Input::Act(Action::Quit)) => {
                    cut.cancel();
                    return;
                }
                Turn::Mesh(event) => self.hear_last(&event),
                Turn::Pages(pages) => {
                    // As above.
                    self.take(pages).ok();
                }
                Turn::Round => self.begin_round(),
                Turn::Input(_) | Turn::Complaint(_) | Turn::TimeOver => {}
            }
            self.draw().ok();
        }
    }

    fn hear_last(&mut self, event: &Event) {
        self.stage.hear(self.began.elapsed(), event);
        if let Show::Lines(form) = &self.show {
            // As above.
            lines::write(*form, event, &event.to_string()).ok();
        }
        self.draw().ok();
    }
}

async fn next_input(show: &mut Show) -> Input {
    match show {
        Show::Screen(_, keyboard) => keyboard.next().await,
        Show::Lines(_) => std::future::pending().await,
    }
}

/// When the generator's task has ended; never without one. Cancel safe: yes.
async fn generator_end(generator: &mut Option<Generator>) {
    match generator {
        Some(generator) => {
            generator.task.join_next().await;
        }
        None => std::future::pending().await,
    }
}

async fn post(client: &Client, uri: &str, body: String) -> anyhow::Result<()> {
    let request = Request::post(uri).body(Full::new(Bytes::from(body)))?;
    let answer = client.send(request, TIMEOUT_ERRAND).await?;
    anyhow::ensure!(
        answer.status().is_success(),
        "status {}",
        answer.status().as_u16()
    );
    Ok(())
}
