package fs

import (
	"sync"
	"testing"
	"time"
)

// waitFor waits until n workers wait.
func (c *crew) waitFor(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		got := len(c.waiting)
		c.mu.Unlock()
		if got == n {
			return
		}
	}
	t.Fatalf("there are not %d workers that wait", n)
}

func TestCrew(t *testing.T) {
	const workers = 6
	var c crew
	var wg sync.WaitGroup
	led, ended := make(chan int, workers), make(chan int, workers)
	wait := func(i int) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if c.await(&worker{}) {
				led <- i
			} else {
				ended <- i
			}
		}()
	}
	for i := range workers {
		wait(i)
		c.waitFor(t, i+1)
	}
	if c.pass() {
		t.Error("a worker is to be hired while others wait")
	}
	if got := <-led; got != workers-1 {
		t.Errorf("worker %d leads, want the one that has waited least", got)
	}
	c.trim() // the first one: nobody is known to be needless yet
	c.waitFor(t, workers-1)
	for range 2 {
		c.pass()
		<-led
	}
	for i := workers; i < workers+2; i++ {
		wait(i)
		c.waitFor(t, i-2)
	}
	c.trim() // two were needed
	c.waitFor(t, spareWorkers+2)
	if got := <-ended; got != 0 {
		t.Errorf("worker %d is sent home, want the one that has waited longest", got)
	}
	c.rest()
	c.waitFor(t, spareWorkers)
	for range 2 {
		if got := <-ended; got != 1 && got != 2 {
			t.Errorf("worker %d is sent home, want those that have waited longest", got)
		}
	}
	for range spareWorkers {
		c.pass()
		<-led
	}
	if !c.pass() {
		t.Error("no worker is to be hired though none waits")
	}
	wait(workers + 2)
	if got := <-led; got != workers+2 {
		t.Errorf("worker %d has the right that nobody had", got)
	}
	wait(workers + 3)
	c.waitFor(t, 1)
	c.close()
	if got := <-ended; got != workers+3 {
		t.Errorf("worker %d ends when the mount is gone", got)
	}
	if c.await(&worker{}) {
		t.Error("a worker leads after the mount is gone")
	}
	wg.Wait()
}
