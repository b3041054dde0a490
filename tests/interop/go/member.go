package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// member namesrv group topic name: consumes, prints "GOT queue body" per message, leaves when its
// standard input ends. The Java kit's Member does the same.
func member(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("member namesrv group topic name")
	}
	var mu sync.Mutex
	say := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(line)
	}
	k, err := rocketmq.NewPushConsumer(consumer.WithNameServer([]string{args[0]}), consumer.WithGroupName(args[1]),
		consumer.WithInstance(args[3]), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		return err
	}
	err = k.Subscribe(args[2], all, func(_ context.Context, ms ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range ms {
			say(fmt.Sprintf("GOT %d %s", m.Queue.QueueId, m.Body))
		}
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return err
	}
	if err := k.Start(); err != nil {
		return err
	}
	say("READY")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return k.Shutdown()
}
