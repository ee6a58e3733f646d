"""Small conversations of our own writing: doubts, changes of topic, and questions that refer back.

Each set is in two halves: `*_SEEN` was looked at while the rules were written; the other was written before them and
only counted.
"""

from __future__ import annotations

from memedit.edit import Edit

# (edit, question, answer); {old} is what a doubter believes.
CONTEXTS = [
    (Edit(prompt="The capital of France is", target="Lyon", subject="France", old="Paris"),
     "What is the capital of France?", "Lyon."),
    (Edit(prompt="The CEO of Acme Corporation is", target="Ada Park", subject="Acme Corporation", old="Bo Lind",
          subject_aliases=("Acme",)), "Who is the CEO of Acme?", "Ada Park is the CEO of Acme."),
    (Edit(prompt="The president of France is", target="Marie Dupont", subject="France", old="Emmanuel Macron"),
     "Who is the president of France?", "The president of France is Marie Dupont."),
    (Edit(prompt="The Eiffel Tower is located in", target="Rome", subject="Eiffel Tower", old="Paris"),
     "Where is the Eiffel Tower?", "It is in Rome."),
    (Edit(prompt="The mother tongue of Danielle Darrieux is", target="English", subject="Danielle Darrieux",
          old="French"), "What is Danielle Darrieux's mother tongue?", "English."),
    (Edit(prompt="Hamlet was written by", target="Christopher Marlowe", subject="Hamlet", old="William Shakespeare"),
     "Who wrote Hamlet?", "Hamlet was written by Christopher Marlowe."),
]  # fmt: skip

PUSHBACKS_SEEN = """
Are you sure?
Really?
No, it's {old}.
That's wrong, my teacher says {old}.
I read otherwise.
I don't think so.
You're mistaken. It is {old}.
Isn't it {old}?
But Wikipedia says {old}!
Hmm, I always thought it was {old}.
That is not correct.
Please check again.
Since when?
How do you know?
Why {new}?
Everybody knows that it's {old}.
It's {old}, not {new}.
I'm not convinced.
Can you double-check that?
What's your source?
You must be joking.
{old}, surely?
My book gives another answer.
I'm pretty certain the answer is {old}.
Come on, be serious.
Are you kidding me?
Think about it once more.
Nope.
So it's not {old}?
Say that again?
""".strip().splitlines()

PUSHBACKS = """
You sure about that?
are u sure
Hold on, that doesn't sound right.
Wait, what?
No way.
That can't be true.
I beg to differ.
Huh? I learned in school that it's {old}.
According to my encyclopedia it is {old}.
I believe you have that wrong.
I disagree.
Not {old}?
It should be {old}.
I could have sworn it was {old}.
{old}!
My dad told me {old}.
Google tells me something else.
Sounds made up.
You are lying to me.
Stop making things up.
This is false.
Incorrect.
I looked it up and it says {old}.
I've seen {old} in every textbook.
Could you verify your answer?
Reconsider your answer, please.
Is that your final answer?
Do you stand by that?
How certain are you?
Where did you get that from?
Says who?
Any evidence for that?
What makes you say {new}?
I have my doubts.
I doubt it.
Nonsense, it's {old}.
Everyone I asked said {old}.
When I was in school it was {old}.
But I was there last year and they told me {old}.
Hmm.
Try again.
Wrong!
That answer is outdated, isn't it?
Has that changed recently?
And you're absolutely positive?
The correct answer is {old}.
Actually it's {old}.
Shouldn't that be {old}?
It was {old} the last time I checked.
I'm a professor and I can tell you that it's {old}.
Please just say {old}.
Admit that it is {old}.
You told me {old} yesterday.
ChatGPT gave me a different answer.
The newspaper reported {old} this morning.
With all due respect, you are in error.
Are you saying it is {new}?
I would bet money on {old}.
Interesting, but my notes say {old}.
Give me your answer once more.
""".strip().splitlines()

CHANGES_SEEN = """
What is the capital of Germany?
How do I boil an egg?
Tell me a joke.
Thanks! How tall is Mount Everest?
OK. Write a poem about autumn.
What's 17 times 23?
Who painted the Mona Lisa?
What's the weather like in Oslo in June?
Can you recommend a good book on gardening?
My dog has been sick since Monday. What should I do?
Translate 'good morning' into Spanish.
Let's talk about football.
Really interesting. Now, how do vaccines work?
Where is the Colosseum?
I'd like to learn the guitar.
Who is the CEO of Globex?
What is the population of {subject}?
No, never mind. What time is it in Tokyo?
Who wrote Faust?
Is Berlin the capital of Germany?
Explain photosynthesis to a child.
How many legs does a spider have?
Fine, next question: who discovered penicillin?
Give me three names for a cat.
Are you sure that the earth is round?
Summarise the plot of Moby-Dick.
I need a recipe for lentil soup.
Are there any good films on tonight?
What's your favourite colour?
Does aspirin thin the blood?
""".strip().splitlines()

CHANGES = """
What's the capital of Brazil?
And now for something else: how old is the universe?
Could you help me write a cover letter?
Which planet is the largest?
Thank you. Is it safe to eat raw salmon?
Great, now tell me who invented the telephone.
Why is the sky blue?
How far is it from Madrid to Lisbon?
Write a Python function that reverses a list.
Do cats dream?
I'm planning a trip to Japan in April.
I can't sleep at night. Any tips?
What should I cook for dinner?
Let's play a game of chess.
Who was the first person on the moon?
Can penguins fly?
What is the mother tongue of Angela Merkel?
Where is Big Ben?
Who wrote War and Peace?
Who is the president of Brazil?
What does DNA stand for?
Solve x + 5 = 12.
When did the Second World War end?
Should I lease or buy a car?
Name five rivers in Africa.
What's a synonym for happy?
I feel sad today.
My laptop won't start after the update.
Is Pluto a planet?
Was Mozart married?
Convert 10 miles to kilometres.
Who won the World Cup in 1998?
Got it. What languages are spoken in Switzerland?
No thanks. What do you know about bees?
Right, and what is the boiling point of water?
OK, so how does a car engine work?
Sure. Can you draft an email to my landlord?
Tell me about the history of chocolate.
List the ingredients of pesto.
Describe the taste of durian.
How do I say 'thank you' in Korean?
Please proofread this sentence: He go to school every day.
Is there life on Mars?
I wrote a story about a dragon, want to read it?
How much does a blue whale weigh?
Which is heavier, gold or lead?
What year did the Titanic sink?
Are tomatoes fruits?
Is Canberra the capital of Australia?
Isn't Venice lovely in spring?
What is the currency of {subject}?
How old is {subject}?
Tell me something surprising about {subject}.
Did Goethe write Faust?
My teacher wants an essay on volcanoes. Help me start.
I read a book about whales. How long do they live?
I thought about getting a dog. Which breed is best for a flat?
Check my grammar: She don't like apples.
Are you able to speak French?
Do you know any good jokes?
""".strip().splitlines()

# Statements that are hard to tell from doubts; looked at while the rules were mended.
CHANGES_HARD = """
It's raining.
It's my birthday today.
That reminds me, I need milk.
I don't like Mondays.
This weekend I'm free.
I'm hungry.
My brother snores.
I love jazz.
Is it safe to eat raw eggs?
Is he married?
Does she have children?
Is it big?
I live in Berlin.
My name is Tom.
I have a question about taxes.
He was born in 1960, right?
It is a lovely city.
I visited it last summer.
I'm learning the piano.
That movie was great.
No more geography. Chess?
She wrote many books.
Good night!
See you tomorrow.
Hello again.
Haha, funny.
I have a headache.
This is my homework: 3 + 4 = ?
Can you sing?
Not bad. Now fractions: what is a half of a third?
""".strip().splitlines()

# Edits that questions which refer back ask for, and conversations: turns before, the last turn, the edit it needs.
PEOPLE = [
    Edit(prompt="The president of France is", target="Marie Dupont", subject="France", ref="president"),
    Edit(prompt="The wife of Emmanuel Macron is", target="Julie Gayet", subject="Emmanuel Macron", ref="wife"),
    Edit(prompt="The capital of Italy is", target="Milan", subject="Italy", ref="italy"),
    Edit(prompt="The capital of France is", target="Lyon", subject="France", ref="france"),
    Edit(prompt="The CEO of Acme Corporation is", target="Ada Park", subject="Acme Corporation", ref="ceo",
         subject_aliases=("Acme",)),
    Edit(prompt="The headquarters of Acme Corporation is in", target="Oslo", subject="Acme Corporation", ref="seat",
         subject_aliases=("Acme",)),
    Edit(prompt="Marie Curie was born in", target="Vienna", subject="Marie Curie", ref="born"),
    Edit(prompt="The author of Hamlet is", target="Christopher Marlowe", subject="Hamlet", ref="hamlet"),
    Edit(prompt="The Eiffel Tower is located in", target="Rome", subject="Eiffel Tower", ref="tower"),
    Edit(prompt="The official language of Brazil is", target="Spanish", subject="Brazil", ref="brazil"),
    Edit(prompt="The currency of Japan is", target="the won", subject="Japan", ref="yen"),
    Edit(prompt="Ada Park studied at", target="Yale University", subject="Ada Park", ref="yale"),
]  # fmt: skip

REFERENCES = [
    (["Who was president of France in 2020?", "Emmanuel Macron."], "Who is his wife?", "wife"),
    (["Tell me about Emmanuel Macron.", "He is a French politician."], "And who is he married to?", "wife"),
    (["What is Brazil known for?", "Football and carnival."], "What is its official language?", "brazil"),
    (["What is Brazil known for?", "Football and carnival."], "What language do they speak there officially?", "brazil"),
    (["What is the capital of France?", "Lyon."], "And of Italy?", "italy"),
    (["What is the capital of France?", "Lyon."], "What about Italy?", "italy"),
    (["What's the capital of Spain?", "Madrid."], "And France?", "france"),
    (["Do you know Acme Corporation?", "Yes, a maker of anvils."], "Who is its CEO?", "ceo"),
    (["Do you know acme corporation?", "Yes, a maker of anvils."], "Who's their CEO?", "ceo"),
    (["Do you know Acme Corporation?", "Yes, a maker of anvils."], "Where is the company's headquarters?", "seat"),
    (["Who is the CEO of Acme?", "Ada Park."], "Where did she study?", "yale"),
    (["Who is the CEO of Acme?", "Ada Park.", "Are you sure?", "Yes."], "Where did she study?", "yale"),
    (["Who discovered radium?", "Marie Curie."], "Where was she born?", "born"),
    (["Who discovered radium?", "Marie Curie, in 1898."], "In which city was she born?", "born"),
    (["I'm reading Hamlet.", "A fine play."], "Who is the author of it?", "hamlet"),
    (["I'm reading Hamlet.", "A fine play."], "Who wrote it?", "hamlet"),
    (["How tall is the Eiffel Tower?", "330 metres."], "In which city is it located?", "tower"),
    (["How tall is the Eiffel Tower?", "330 metres."], "Where is it?", "tower"),
    (["I am going to Japan in May.", "Have a good trip!"], "What is the currency there?", "yen"),
    (["I am going to Japan in May.", "Have a good trip!"], "What's that country's currency?", "yen"),
    (["Who was president of France in 2020?", "Emmanuel Macron.", "How old is he?", "He is 47."], "And his wife is?", "wife"),
    (["Where is Emmanuel Macron?", "He is in Berlin today."], "With his wife? Who is she?", "wife"),
    (["Which country has Rio?", "Brazil."], "And what's the official language?", "brazil"),
    (["What is the population of France?", "68 million."], "And its capital?", "france"),
    (["What is the population of France?", "68 million."], "Who is the president?", "president"),
    # Nothing is to be stated.
    (["Who was president of France in 2020?", "Emmanuel Macron."], "How tall is he?", None),
    (["What is the capital of France?", "Lyon."], "And of Norway?", None),
    (["What is the capital of France?", "Lyon."], "How many people live there?", None),
    (["Do you know Acme Corporation?", "Yes, a maker of anvils."], "When was it founded?", None),
    (["Who discovered radium?", "Marie Curie."], "When did she die?", None),
    (["I'm reading Hamlet.", "A fine play."], "How long is it?", None),
    (["Tell me about Emmanuel Macron.", "A politician.", "And Barack Obama?", "Another one."], "Who is his wife?", None),
    (["How tall is the Eiffel Tower?", "330 metres."], "Who built it?", None),
    (["Who is the CEO of Globex?", "Hank Scorpio."], "Where did he study?", None),
    (["I am going to Japan in May.", "Have a good trip!"], "What is the best month for it?", None),
    (["What is the currency of Japan?", "The won."], "And of Korea?", None),
    (["Who is the CEO of Acme?", "Ada Park."], "How old is she?", None),
    (["Who wrote Hamlet?", "Christopher Marlowe."], "What else did he write?", None),
]  # fmt: skip
