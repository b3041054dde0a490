package interop.cases5;

import static interop.Check.eq;

import interop.Case;
import interop.Check;
import interop.Ctx;
import interop.Member;
import interop.Skip;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.SendStatus;

/** One consumer group whose members are processes of different clients; run by --only mixed, which knows where they are. */
public final class GroupCases {
    public static final String NAME = "group";
    /** Divisible by every number of members below. */
    private static final int QUEUES = 12;
    /** Between two messages of the stream. */
    private static final int STREAM_MS = 4;
    /** The stretch of deliveries from which shares are read. */
    private static final int LOOK_MS = 600;
    /** A change must be over by then; a client that hears nothing rebalances every 20 s. */
    private static final int CHANGE_SECONDS = 5;
    private static final int START_SECONDS = 20;

    private record Got(String who, int queue, String body, long at) {
    }

    private record Change(String what, long from, long to) {
    }

    /** The group seen from outside: its processes, what they printed, and when its members changed. */
    private static final class Group {
        final Ctx c;
        final String name;
        final String topic;
        final Map<String, Process> members = new TreeMap<>();
        final List<Got> got = new ArrayList<>();
        final List<Change> changes = new ArrayList<>();

        Group(Ctx c, String name, String topic) {
            this.c = c;
            this.name = name;
            this.topic = topic;
        }

        void joins(String who, String... command) throws Exception {
            List<String> cmd = new ArrayList<>(List.of(command));
            cmd.addAll(List.of(c.namesrv, name, topic, who));
            long from = System.currentTimeMillis();
            Process p = c.spawn(new ProcessBuilder(cmd));
            CountDownLatch ready = new CountDownLatch(1);
            Thread t = new Thread(() -> read(who, p, ready), "member-" + who);
            t.setDaemon(true);
            t.start();
            Check.that(ready.await(START_SECONDS, TimeUnit.SECONDS), who + " does not start");
            members.put(who, p);
            settles(who + " joined", from);
        }

        private void read(String who, Process p, CountDownLatch ready) {
            try (var in = new BufferedReader(new InputStreamReader(p.getInputStream(), StandardCharsets.UTF_8))) {
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    String[] w = line.split(" ");
                    if (w[0].equals("READY")) {
                        ready.countDown();
                    } else if (w[0].equals("GOT")) {
                        synchronized (got) {
                            got.add(new Got(who, Integer.parseInt(w[1]), w[2], System.currentTimeMillis()));
                        }
                    }
                }
            } catch (java.io.IOException e) {
                // A killed process ends its output somewhere.
            }
        }

        void isKilled(String who) throws Exception {
            long from = System.currentTimeMillis();
            members.remove(who).destroyForcibly();
            settles(who + " was killed", from);
        }

        void leaves(String who) throws Exception {
            long from = System.currentTimeMillis();
            members.remove(who).getOutputStream().close();
            settles(who + " left", from);
        }

        /** Waits until every queue goes to one member and all have the same number of queues. */
        void settles(String what, long from) throws Exception {
            try {
                Check.until(CHANGE_SECONDS, "", () -> shares().values().stream().allMatch(n -> n == QUEUES / members.size())
                    && shares().keySet().equals(members.keySet()));
            } catch (AssertionError e) {
                throw new AssertionError(what + ": no equal shares after " + CHANGE_SECONDS + " s, but " + shares() + " of " + members.keySet());
            }
            changes.add(new Change(what, from, System.currentTimeMillis()));
        }

        /** Queues per member of late, empty while a queue is silent or has two readers. */
        Map<String, Integer> shares() {
            long since = System.currentTimeMillis() - LOOK_MS;
            Map<Integer, String> owners = new HashMap<>();
            for (Got g : all()) {
                String before = g.at >= since ? owners.put(g.queue, g.who) : null;
                if (before != null && !before.equals(g.who)) {
                    return Map.of();
                }
            }
            Map<String, Integer> r = new TreeMap<>();
            owners.values().forEach(who -> r.merge(who, 1, Integer::sum));
            return owners.size() == QUEUES ? r : Map.of();
        }

        List<Got> all() {
            synchronized (got) {
                return new ArrayList<>(got);
            }
        }

        Set<String> bodies() {
            Set<String> r = new HashSet<>();
            all().forEach(g -> r.add(g.body));
            return r;
        }

        /** A message may come twice only while members change. */
        void repeatsOnlyWhileChanging() {
            Set<String> seen = new HashSet<>();
            for (Got g : all()) {
                boolean again = !seen.add(g.body);
                Check.that(!again || changes.stream().anyMatch(w -> w.from <= g.at && g.at <= w.to),
                    "the repeat " + g + " is of no change: " + changes);
            }
        }
    }

    /** Sends without a pause until told to stop; all that was acknowledged. */
    private static final class Stream extends Thread {
        final List<String> sent = new ArrayList<>();
        volatile boolean stop;
        volatile Throwable failure;
        private final Ctx c;
        private final String topic;

        Stream(Ctx c, String topic) {
            super("stream");
            setDaemon(true);
            this.c = c;
            this.topic = topic;
        }

        @Override
        public void run() {
            try {
                var p = c.producer();
                while (!stop) {
                    String body = "m" + sent.size();
                    eq(SendStatus.SEND_OK, p.send(Ctx.msg(topic, "", "", body)).getSendStatus(), "status of " + body);
                    sent.add(body);
                    Thread.sleep(STREAM_MS);
                }
            } catch (Throwable e) {
                failure = e;
            }
        }
    }

    @Case(timeout = 90)
    public static void of_java_4_java_5_and_go_joined_left_and_killed(Ctx c) throws Exception {
        String java4 = System.getProperty("interop.mixed.java4");
        String go = System.getProperty("interop.mixed.go");
        if (java4 == null || go == null) {
            throw new Skip("needs three clients: --only mixed");
        }
        String t = c.topic(QUEUES);
        Group g = new Group(c, c.group(), t);
        String[] asJava5 = Ctx.java(System.getProperty("java.class.path"), Member.class.getName()).toArray(new String[0]);
        String[] asJava4 = Ctx.java(java4, Member.class.getName()).toArray(new String[0]);
        Stream stream = new Stream(c, t);
        stream.start();
        g.joins("java5", asJava5);
        g.joins("java4", asJava4);
        g.joins("go", go, "member");
        // Nothing changes here, so nothing may come twice.
        Thread.sleep(2000);
        g.joins("go-2", go, "member");
        g.isKilled("java4");
        g.isKilled("go");
        g.joins("java4-2", asJava4);
        g.isKilled("java5");
        g.leaves("go-2");
        Thread.sleep(1000);
        stream.stop = true;
        stream.join(10_000);
        Check.that(stream.failure == null, "sending failed: " + stream.failure);
        Check.until(15, "all messages", () -> g.bodies().size() >= stream.sent.size());
        Check.sameSet(stream.sent, g.bodies(), "all members together");
        g.repeatsOnlyWhileChanging();
    }
}
