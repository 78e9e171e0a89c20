//! Command line.
use ridethrough_chaos::*;
fn main() -> anyhow::Result<()> {
    let mut a = std::env::args().skip(1);
    if a.next().as_deref() == Some("guardian") {
        std::process::exit(i32::from(guardian::watch(std::path::Path::new(&a.next().unwrap_or_default()))));
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let t = tokio::time::Instant::now();
        let c = Cluster::start(&cluster::Options::default()).await?;
        eprintln!("up {:?} {} {:?}", t.elapsed(), c.url(), c.pid());
        for _ in 0..2 {
        let k = c.kill().await?;
        eprintln!("killed {k:?} {:?}", t.elapsed());
        eprintln!("again {:?}", c.start_again().await?);
        }
        let h = c.hang().await?;
        eprintln!("hang {} {} connect: {:?}", h.processes(), h.stopped_now(), c.connect(std::time::Duration::from_millis(300)).await.err().map(|e| e.to_string()));
        drop(h);
        let cl = c.connect(std::time::Duration::from_millis(3000)).await?;
        eprintln!("{:?}", cl.simple_query("select version(), current_user, current_database()").await?);
        if std::env::var("LINGER").is_ok() { std::thread::sleep(std::time::Duration::from_secs(60)); }
        eprintln!("stop {:?} {:?}", c.stop().await?, t.elapsed());
        drop(c);
        eprintln!("gone {:?}", t.elapsed());
        anyhow::Ok(())
    })
}
