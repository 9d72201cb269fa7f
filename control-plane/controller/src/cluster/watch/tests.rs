//! One kind against a fake API server, by a clock that jumps.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::cluster::fake::{Fake, Outage};

const PATH: &str = "/api/v1/things";

fn thing(name: &str, value: u32) -> Value {
    json!({"metadata": {"namespace": "a", "name": name}, "value": value})
}

fn read(raw: &RawValue) -> Option<u64> {
    let value: Value = serde_json::from_str(raw.get()).unwrap();
    value["value"].as_u64()
}

struct Bed {
    fake: Fake,
    events: mpsc::Receiver<((), Event<u64>)>,
    known: std::collections::BTreeMap<Key, u64>,
    lists: usize,
    trouble: Option<Trouble>,
    _task: tokio::task::JoinSet<()>,
}

fn start(fake: Fake) -> Bed {
    let (to_events, events) = mpsc::channel(16);
    let listing = Listing {
        path: PATH.to_owned(),
        query: String::new(),
    };
    let watch = Watch::new(fake.api(), listing, Arc::new(read), (), to_events);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(watch.run());
    Bed {
        fake,
        events,
        known: std::collections::BTreeMap::new(),
        lists: 0,
        trouble: None,
        _task: task,
    }
}

impl Bed {
    /// Takes events until what is known is what there is. Says how long that took.
    async fn until_equal(&mut self) -> Duration {
        let began = Instant::now();
        while self.lists == 0 || self.trouble.is_some() || self.known != self.real() {
            let next = timeout(Duration::from_secs(600), self.events.recv()).await;
            let ((), event) = next.expect("nothing comes any more").unwrap();
            self.take(event);
        }
        began.elapsed()
    }

    async fn until_trouble(&mut self) -> Trouble {
        loop {
            let ((), event) = self.events.recv().await.unwrap();
            self.take(event);
            if let Some(trouble) = &self.trouble {
                return trouble.clone();
            }
        }
    }

    fn take(&mut self, event: Event<u64>) {
        match event {
            Event::Listed(items) => {
                self.lists += 1;
                self.known = items
                    .into_iter()
                    .map(|item| (item.key, item.value))
                    .collect();
            }
            Event::Put(item) => drop(self.known.insert(item.key, item.value)),
            Event::Deleted(key) => {
                self.known.remove(&key).expect("what is deleted was known");
            }
            Event::Trouble(trouble) => self.trouble = trouble,
        }
    }

    fn real(&self) -> std::collections::BTreeMap<Key, u64> {
        let all = self.fake.world().all(PATH);
        let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap().into();
        all.iter()
            .map(|object| {
                let key = (text(object, "namespace"), text(object, "name"));
                (key, object["value"].as_u64().unwrap())
            })
            .collect()
    }

    fn put(&self, name: &str, value: u32) {
        self.fake.world().put(PATH, thing(name, value));
    }
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_becomes_a_watch() {
    let mut bed = start(Fake::new());
    for name in ["a", "b", "c"] {
        bed.put(name, 1);
    }
    bed.until_equal().await;
    assert_eq!(bed.known.len(), 3);
    bed.put("a", 2);
    bed.fake.world().delete(PATH, "a/b");
    bed.until_equal().await;
    assert_eq!((bed.known.len(), bed.lists), (2, 1));
    assert_eq!(bed.fake.world().calls.len(), 1, "one call for both");
}

#[tokio::test(start_paused = true)]
async fn where_lists_are_not_streamed_they_come_in_pages() {
    let fake = Fake::new();
    {
        let mut world = fake.world();
        world.streams_lists = false;
        world.page = 2;
        for name in ["a", "b", "c", "d", "e"] {
            world.put(PATH, thing(name, 1));
        }
    }
    let mut bed = start(fake);
    bed.until_equal().await;
    assert_eq!((bed.known.len(), bed.lists), (5, 1));
    assert_eq!(bed.fake.world().count(&["limit="]), 3);
    // It is not asked again for what it does not have.
    bed.fake.world().compact();
    bed.put("f", 1);
    bed.until_equal().await;
    assert_eq!(bed.fake.world().count(&["sendInitialEvents"]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_closes_goes_on_where_it_was() {
    let mut bed = start(Fake::new());
    bed.put("a", 1);
    bed.until_equal().await;
    for value in 2..20 {
        tokio::time::sleep(Duration::from_secs(240)).await;
        bed.fake.world().close();
        bed.put("a", value);
        bed.until_equal().await;
    }
    assert_eq!(bed.lists, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_listed_again_and_nothing_is_lost_in_between() {
    let mut bed = start(Fake::new());
    bed.put("a", 1);
    bed.until_equal().await;
    let began = Instant::now();
    for value in 2..1_000 {
        bed.fake.world().compact();
        bed.put("a", value);
        bed.until_equal().await;
    }
    assert_eq!(bed.lists, 999);
    // Each costs a short pause, and not one that grows.
    assert!(began.elapsed() < Duration::from_secs(300));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_watch_is_noticed_within_90_seconds() {
    let mut bed = start(Fake::new());
    bed.put("a", 1);
    bed.until_equal().await;
    bed.fake.world().freeze();
    bed.put("a", 2);
    assert!(bed.until_equal().await <= Duration::from_secs(90));
    assert_eq!(bed.lists, 1, "it goes on where it was");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_keep_a_quiet_watch_open() {
    let mut bed = start(Fake::new());
    bed.until_equal().await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        bed.fake.world().bookmark();
    }
    assert_eq!(bed.fake.world().calls.len(), 1);
    // And move it forward: what is forgotten before them does no harm.
    bed.put("a", 1);
    bed.until_equal().await;
    assert_eq!(bed.lists, 1);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_takes_nothing_with_it() {
    for outage in [
        Outage::Cut,
        Outage::Hang,
        Outage::Code(500),
        Outage::Code(403),
    ] {
        let mut bed = start(Fake::new());
        bed.put("a", 1);
        bed.put("b", 1);
        bed.until_equal().await;
        {
            let mut world = bed.fake.world();
            world.outage = outage;
            world.close();
        }
        let trouble = bed.until_trouble().await;
        let reason = match outage {
            Outage::Cut => "unreachable",
            Outage::Hang => "timeout",
            Outage::Code(403) => "forbidden",
            Outage::None | Outage::Code(_) => "refused",
        };
        assert_eq!(trouble.reason, reason);
        let calls = bed.fake.world().calls.len();
        tokio::time::sleep(Duration::from_secs(600)).await;
        let calls = bed.fake.world().calls.len() - calls;
        assert!(
            (10..100).contains(&calls),
            "{outage:?}: {calls} calls in 10 minutes"
        );
        assert_eq!(bed.known.len(), 2);
        bed.fake.world().outage = Outage::None;
        bed.fake.world().delete(PATH, "a/a");
        assert!(
            bed.until_equal().await < Duration::from_secs(40),
            "{outage:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let fake = Fake::new();
    fake.world().outage = Outage::Cut;
    let mut bed = start(fake);
    bed.until_trouble().await;
    assert_eq!(bed.lists, 0, "no list is no empty list");
    bed.put("a", 1);
    bed.fake.world().outage = Outage::None;
    bed.until_equal().await;
    assert_eq!(bed.lists, 1);
}

#[tokio::test(start_paused = true)]
async fn objects_that_make_no_sense_are_left_out() {
    let fake = Fake::new();
    fake.world().put(
        PATH,
        json!({"metadata": {"namespace": "a", "name": "bad"}, "value": "x"}),
    );
    fake.world().put(PATH, thing("good", 1));
    let bed = start(fake);
    let mut bed = bed;
    while bed.lists == 0 {
        let ((), event) = bed.events.recv().await.unwrap();
        bed.take(event);
    }
    assert_eq!(bed.known.len(), 1);
}
