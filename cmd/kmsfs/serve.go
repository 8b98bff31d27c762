package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"kmsfs/keysource/passphrase"
)

// busyGrace is how long a daemon that was told to end waits for the users of its mount before it detaches it.
const busyGrace = 5 * time.Second

// serve mounts as p says, calls ready once the mount answers, and returns when it is unmounted, by whomever, and the
// vault is closed.
func (a *app) serve(p mountPlan, secret passphrase.Source, log *slog.Logger, ready func() error) error {
	signals := make(chan os.Signal, 2)
	a.notifySignals(signals)
	if err := harden(a.env); err != nil {
		return err
	}
	keepOutOfSwap(log)
	listener, err := listenMetrics(p.MetricsListen)
	if err != nil {
		return err
	}
	m, err := a.mountInterruptibly(p, secret, log, signals)
	if err != nil {
		if listener != nil {
			listener.Close()
		}
		return err
	}
	control, pages := a.startControl(m, p, log), serveMetrics(listener, m.metrics, log)
	if err = ready(); err != nil {
		pages.stop()
		control.stop()
		_ = m.server.UnmountLazily()
		<-m.server.Done()
		return errors.Join(err, m.close())
	}
	log.Info("mounted", "vault", p.Vault, "mountpoint", p.Mountpoint)
	service := a.startService(p, log, m.server.Check)
	defer service.stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var background sync.WaitGroup
	if p.AutoRewrap {
		background.Go(func() { m.autoRewrap(ctx, p, log) })
	}
	unmounted := m.untilUnmounted(service, signals)
	service.stopping()
	cancel()
	waitFor(&background, autoRewrapEnd)
	pages.stop()
	control.stop()
	if unmounted {
		return m.close()
	}
	err = faultf(errBusy, "ended while the mount was in use")
	if m.vault != nil {
		err = errors.Join(err, m.flushInTime())
	}
	return err
}

// mountInterruptibly checks what can be checked, makes what p.Init allows, and mounts. A signal ends it.
func (a *app) mountInterruptibly(p mountPlan, secret passphrase.Source, log *slog.Logger, signals <-chan os.Signal) (*mounted, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-signals:
			cancel()
		case <-stop:
		}
	}()
	err := a.prepare(ctx, p, secret)
	var m *mounted
	if err == nil {
		m, err = mountChain(ctx, p, secret, log)
	}
	close(stop)
	<-watched // from here on a signal is untilUnmounted's
	if err == nil && ctx.Err() != nil {
		_ = m.server.UnmountLazily()
		<-m.server.Done()
		return nil, errors.Join(ctx.Err(), m.close())
	}
	return m, err
}

// prepare checks vault and mountpoint, and makes what is missing where p.Init allows.
func (a *app) prepare(ctx context.Context, p mountPlan, secret passphrase.Source) error {
	if err := checkMount(p); err != nil {
		return err
	}
	if err := a.checkFUSE(&p); err != nil {
		return err
	}
	if p.Init {
		if err := makeDir(p.Mountpoint); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			return err
		}
	}
	mounts, err := kmsfsMounts()
	if err != nil {
		return err
	}
	if err := checkMountpoint(p.Mountpoint, mounts); err != nil {
		return err
	}
	p = p.storage()
	if !p.Init || holdsVault(p.Vault) {
		return nil
	}
	if p.ReadOnly && !p.Reverse {
		return hintf(faultf(errUsage, "a vault cannot be made read-only, and %s is none yet", p.Vault), "kmsfs init %s", quote(p.Vault))
	}
	url := p.Keysource
	if url == "" {
		url = p.NewKeysource
	}
	ks, err := openKeysource(ctx, p, url, secret, func(dir string) { fmt.Fprintf(a.stderr, "kmsfs: made key store %s\n", dir) })
	if err != nil {
		return err
	}
	defer ks.Close()
	p.NewKeysource = url
	if err := makeVault(ctx, p, ks); err != nil {
		if p.Reverse && errors.Is(err, syscall.EROFS) {
			return hintf(err, "--state DIR names a directory that can be written to")
		}
		return err
	}
	fmt.Fprintf(a.stderr, "kmsfs: made vault %s\n", p.Vault)
	return nil
}

// untilUnmounted waits for the end of the mount. The first signal unmounts it; while it is busy that is tried for
// busyGrace, then the mount is detached, and its users are served until they let go of it. The second signal ends that
// too: then the answer is false.
func (m *mounted) untilUnmounted(of *service, signals <-chan os.Signal) bool {
	p, log := of.p, of.log
	select {
	case <-m.server.Done():
		return true
	case s := <-signals:
		log.Info("unmounting", "signal", s.String())
		of.stopping()
	}
	if m.thaw != nil { // else unmounting waits for those that are held
		m.thaw()
	}
	// Whatever asks the mount may hang with the disk, and a signal must be heard all the same.
	go func() { _ = m.server.Sync() }() // what the kernel caches comes to the vault while there is time
	ended := make(chan error, 1)
	try := func() { ended <- m.server.Unmount() }
	go try()
	tooLong := time.After(busyGrace)
	var retry <-chan time.Time
	for {
		select {
		case <-m.server.Done():
			return true
		case <-signals:
			return false
		case <-retry:
			go try()
		case err := <-ended:
			if err != nil && tooLong != nil {
				retry = time.After(100 * time.Millisecond)
			}
		case <-tooLong:
			tooLong, retry = nil, nil
			log.Warn("the mount is busy: detached, and served until nobody uses it; a second signal ends it", "mountpoint", p.Mountpoint)
			go func() {
				if err := m.server.UnmountLazily(); err != nil {
					log.Error("cannot detach the mount", "err", err)
				}
			}()
		}
	}
}

// flushInTime puts what is in the journal in place, unless the disk takes longer than busyGrace.
func (m *mounted) flushInTime() error {
	ended := make(chan error, 1)
	go func() { ended <- m.vault.Flush() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(busyGrace):
		return errors.New("what was written last stays in the journal: the disk does not answer")
	}
}

// isBusy tells that something uses the mount, from the error of umount2(2) or the words of fusermount3(1).
func isBusy(err error) bool {
	return errors.Is(err, syscall.EBUSY) || err != nil && strings.Contains(err.Error(), "busy")
}
