package qexport.app;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ExecutorService;

/** One thread for jobs: what one opened, the next one finds, and no two run at a time. Only one touches models. */
final class Worker {
    /** Work that can be ended early; `stop` comes from another thread, before or while it runs. */
    interface Job {
        void run();

        void stop();
    }

    private final ExecutorService thread;
    private final List<Job> waiting = new ArrayList<>();  // or running; guarded by itself

    /** `name`: the thread's, for who reads a trace. */
    Worker(String name) {
        thread = Executors.newSingleThreadExecutor(runnable -> new Thread(runnable, name));
    }

    /** Queues work that is short. */
    void run(Runnable job) {
        thread.execute(job);
    }

    /** Queues work that {@link #stopAll} ends. */
    void run(Job job) {
        synchronized (waiting) {
            waiting.add(job);
        }
        thread.execute(() -> {
            try {
                job.run();
            } finally {
                synchronized (waiting) {
                    waiting.remove(job);
                }
            }
        });
    }

    /** Tells every job that waits or runs to end; does not wait for it. */
    void stopAll() {
        List<Job> jobs;
        synchronized (waiting) {
            jobs = new ArrayList<>(waiting);
        }
        for (Job job : jobs) {
            job.stop();
        }
    }

    /** True while a job of the second kind waits or runs. */
    boolean busy() {
        synchronized (waiting) {
            return !waiting.isEmpty();
        }
    }
}
