package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// result is one measurement.
type result struct {
	rate          float64 // calls a second
	p50, p99, max time.Duration
	perCall       time.Duration // CPU of the server
	cpu           float64       // CPUs that the server used
	memory        int64         // of the server, at the end
}

// load lets clients make calls one after another, and measures.
func load(ctx context.Context, s *signer, url, op, body string, clients int, duration time.Duration, pid int) (result, error) {
	before, err := cpuOf(pid)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	took := make([][]time.Duration, clients)
	errs := make([]error, clients)
	begin := time.Now()
	for i := range clients {
		all.Go(func() {
			c := newConn(url)
			defer c.close()
			for time.Since(begin) < duration && errs[i] == nil {
				at := time.Now()
				_, errs[i] = s.call(ctx, c, op, body)
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(begin)
	for _, err := range errs {
		if err != nil {
			return result{}, err
		}
	}
	after, err := cpuOf(pid)
	if err != nil {
		return result{}, err
	}
	memory, err := memoryOf(pid)
	if err != nil {
		return result{}, err
	}
	calls := slices.Concat(took...)
	slices.Sort(calls)
	at := func(q float64) time.Duration { return calls[int(q*float64(len(calls)-1))].Round(10 * time.Microsecond) }
	return result{
		rate: float64(len(calls)) / elapsed.Seconds(), p50: at(.5), p99: at(.99), max: at(1),
		perCall: ((after - before) / time.Duration(len(calls))).Round(time.Microsecond),
		cpu:     (after - before).Seconds() / elapsed.Seconds(), memory: memory,
	}, nil
}
