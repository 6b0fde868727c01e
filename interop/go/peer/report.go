package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// grace is how long a scenario may take to notice that its time is over.
const grace = time.Second

// stdout keeps lines whole: events and results come from several goroutines.
var stdout sync.Mutex

// printJSON prints one line, unbuffered, for a reader at the other end of a pipe waits for it.
func printJSON(value any) error {
	line, err := json.Marshal(value)
	if err != nil {
		return err
	}
	stdout.Lock()
	defer stdout.Unlock()
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}

// result is the line of a scenario.
type result struct {
	Result string  `json:"result"`
	OK     bool    `json:"ok"`
	MS     float64 `json:"ms"`
	Detail any     `json:"detail"`
}

// report prints what came of a scenario and returns its error.
func report(name string, took time.Duration, detail any, err error) error {
	if err != nil {
		detail = err.Error()
		err = fmt.Errorf("%s: %w", name, err)
	}
	return errors.Join(err, printJSON(result{name, err == nil, ms(took), detail}))
}

// try runs a scenario and reports it. It returns in time even if the library hangs.
func try(name string, limit time.Duration, scenario func(context.Context) (any, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	type outcome struct {
		detail any
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		detail, err := scenario(ctx)
		done <- outcome{detail, err}
	}()
	select {
	case o := <-done:
		return report(name, time.Since(start), o.detail, o.err)
	case <-time.After(limit + grace):
		return report(name, time.Since(start), nil, fmt.Errorf("nothing after %v", limit))
	}
}

// ms is a duration in milliseconds with three decimals.
func ms(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}
