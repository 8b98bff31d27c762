package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// service is a mount as systemd sees it. Without a service manager its methods do nothing.
type service struct {
	a        *app
	p        mountPlan
	log      *slog.Logger
	stopping func()

	end     context.CancelFunc
	pinging sync.WaitGroup
}

// startService says that the mount answers, and goes on saying so, where it is wanted, as long as it is true: check tells.
func (a *app) startService(p mountPlan, log *slog.Logger, check func(context.Context) error) *service {
	ctx, end := context.WithCancel(context.Background())
	s := &service{a: a, p: p, log: log, end: end}
	s.stopping = sync.OnceFunc(func() { a.tellSystemd(log, "STOPPING=1\nSTATUS=Unmounting "+oneLine(p.Mountpoint)) })
	if a.env("NOTIFY_SOCKET") == "" {
		return s
	}
	a.tellSystemd(log, "READY=1\n"+s.mountedStatus())
	if every := a.watchdogTime(); every > 0 {
		s.pinging.Go(func() { s.ping(ctx, every/2, check) })
	}
	return s
}

func (s *service) mountedStatus() string {
	return "STATUS=" + oneLine(fmt.Sprintf("%s is mounted on %s", s.p.Vault, s.p.Mountpoint))
}

// stop ends the pings: the last thing before the process ends.
func (s *service) stop() {
	s.end()
	s.pinging.Wait()
}

// watchdogTime is within what time systemd wants to hear of this process, see sd_watchdog_enabled(3); 0: it does not.
func (a *app) watchdogTime() time.Duration {
	if pid := a.env("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(a.env("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(time.Duration(1<<62)/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// ping tells systemd of a check that has passed. From the moment that nothing is mounted any more there is nothing to check: what
// is left to be written is written, however long that takes.
func (s *service) ping(ctx context.Context, every time.Duration, check func(context.Context) error) {
	t := time.NewTicker(every)
	defer t.Stop()
	well := true
	for {
		inTime, cancel := context.WithTimeout(ctx, every/2)
		err := check(inTime)
		cancel()
		switch {
		case err == nil || errors.Is(err, syscall.ENOTCONN):
			state := "WATCHDOG=1"
			if !well {
				state += "\n" + s.mountedStatus()
			}
			s.a.tellSystemd(s.log, state)
			well = true
		case ctx.Err() == nil && well:
			s.log.Error("the mount does not answer: the watchdog of systemd is not told", "err", err)
			s.a.tellSystemd(s.log, "STATUS=The mount does not answer: "+oneLine(err.Error()))
			well = false
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
